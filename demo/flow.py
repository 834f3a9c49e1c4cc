"""Training of the flow transformer: steps of a fast copy of its weights, losses by noise level, sheets of samples."""

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from networks import fast_dtype, make_mmdit
from torch import Tensor
from tqdm import tqdm
from word_vectors import TOKENS, WIDTH, word_vector

BATCH, WARM_UP = 32, 100
DROP_WORD, DROP_ALL = 0.12, 0.4
BANDS = 8  # of the noise level s in [0, 1], in the logged losses
SAVE_EVERY = 240  # seconds
SHEET_EVERY = 500  # steps
FAST = fast_dtype("cpu")


class Prompts:
    """Words of many pictures as indices into one table of word vectors; row 0 is the missing word."""

    def __init__(self, texts: list[str]):
        vocabulary = sorted({w for text in texts for w in text.split()})
        number = {w: i + 1 for i, w in enumerate(vocabulary)}
        self.table = torch.stack([torch.zeros(WIDTH), *map(word_vector, vocabulary)])
        self.words = torch.zeros(len(texts), TOKENS, dtype=torch.long)
        for row, text in zip(self.words, texts, strict=True):
            found = [number[w] for w in text.split()]
            row[: len(found)] = torch.tensor(found)

    def embed(self, pick: Tensor, keep: Tensor | int = 1) -> Tensor:
        """(B, 8, 768) of the picked pictures; words where `keep` (B, 8) is 0 are missing."""
        return self.table[self.words[pick] * keep]


def draw_levels(count: int) -> Tensor:
    """Noise levels s in (0, 1), shape (count, 1, 1, 1): logit-normal as in SD3 (arXiv 2403.03206, section 3.1).

    One in five is uniform under the shift of 3 that the host samples with, for the ends that the first seldom visits.
    """
    u = (torch.arange(count) + torch.rand(count)) / count  # stratified
    logit_normal = torch.sigmoid(0.5 + torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)))
    even = torch.rand(count)
    return torch.where(torch.rand(count) < 0.2, 3 * even / (1 + 2 * even), logit_normal).view(-1, 1, 1, 1)


class FlowRun:
    """Weights, moving average, optimiser and step count, saved together; steps run on a copy in `FAST`.

    Where `file` has none of them, weights begin as `weights` after `step` steps.
    """

    def __init__(self, file: Path, depth: int, weights: dict[str, Tensor] | None = None, step: int = 0):
        self.file, self.step, self.bands = file, step, torch.ones(BANDS)
        self.model = make_mmdit(depth)
        if weights:
            self.model.load_state_dict(weights)
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.opt = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        if file.exists():
            state = torch.load(file)
            for name in ("model", "ema", "opt"):
                getattr(self, name).load_state_dict(state[name])
            self.step, self.bands = state["step"], state["bands"]
        self.fast = copy.deepcopy(self.model).to(FAST)

    def save(self) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("model", "ema", "opt")}
        torch.save(state | {"step": self.step, "bands": self.bands}, self.file.with_suffix(".tmp"))
        self.file.with_suffix(".tmp").replace(self.file)

    def loop(self, name: str, seconds: float, rate: float, decay: bool) -> Iterator[tuple[tqdm, float]]:
        """Yield a progress bar and the learning rate until the time is up; the caller calls `update`.

        The rate rises over `WARM_UP` steps; where `decay` is true, it falls to zero over this run.
        """
        begin, first = time.time(), self.step
        saved = begin
        with tqdm(desc=name, initial=self.step, unit="step", mininterval=30) as bar:
            while (passed := time.time() - begin) < seconds:
                warmth, left = min(1, (self.step - first + 1) / WARM_UP), 1 - passed / seconds if decay else 1
                yield bar, rate * warmth * left
                bar.update()
                if time.time() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.time()
        self.save()

    def update(self, loss: Tensor, rate: float) -> None:
        loss.backward()
        params, fast = list(self.model.parameters()), list(self.fast.parameters())
        for p, f in zip(params, fast, strict=True):
            p.grad, f.grad = None if f.grad is None else f.grad.float(), None
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for group in self.opt.param_groups:
            group["lr"] = rate
        self.opt.step()
        self.step += 1
        with torch.no_grad():
            torch._foreach_copy_(fast, params)
            # A tenth of the steps so far, at most 300: where the rate falls to zero, the last weights are the best.
            torch._foreach_lerp_(list(self.ema.parameters()), params, max(0.003, 9 / (9 + self.step)))


def velocity_error(model: torch.nn.Module, z: Tensor, s: Tensor, context: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the predicted velocity, per picture, by a network in `FAST`."""
    x = (1 - s) * z + s * noise
    out = model(x.to(FAST), 1000 * s.flatten(), context=context.to(FAST)).float()
    return (out - (noise - z)).square().mean((1, 2, 3))


def train(
    run: FlowRun,
    latents: Tensor,
    prompts: Prompts,
    told: Tensor,
    seconds: float,
    rate: float,
    decay: bool,
    check: Callable[[FlowRun], dict],
) -> None:
    """Steps until the time is up; `check` is called now and then, and what it returns is logged.

    Words are dropped singly and all together, but for the first one of pictures where `told` (N,) is true: samples
    without words never show those.
    """
    begin = time.time()
    for bar, now in run.loop("flow", seconds, rate, decay):
        pick = torch.randint(len(latents), (BATCH,))
        z, s = latents[pick].float(), draw_levels(BATCH)
        keep = (torch.rand(BATCH, TOKENS) > DROP_WORD) & (torch.rand(BATCH, 1) > DROP_ALL)
        keep[:, 0] |= told[pick]
        loss = velocity_error(run.fast, z, s, prompts.embed(pick, keep), torch.randn_like(z))
        run.update(loss.mean(), now)
        band = (BANDS * s.flatten()).long()
        for b in band.unique():
            run.bands[b].lerp_(loss.detach()[band == b].mean(), 0.02)
        if run.step % 50 == 0:
            bar.set_postfix_str("loss by noise " + " ".join(f"{b:.3f}" for b in run.bands), refresh=False)
        if run.step % SHEET_EVERY == 0:
            entry = {"step": run.step, "seconds": round(time.time() - begin), "running": run.bands.tolist()}
            with run.file.with_suffix(".jsonl").open("a") as log:
                print(json.dumps(entry | check(run)), file=log)


@torch.no_grad()
def losses(run: FlowRun, latents: Tensor, prompts: Prompts, pick: Tensor) -> list[float]:
    """Of the moving average by noise band, on these pictures with their words; always the same noise."""
    model = copy.deepcopy(run.ema).to(FAST)
    generator = torch.Generator().manual_seed(0)
    out = []
    for b in range(BANDS):
        s = (b + torch.rand(len(pick), 1, 1, 1, generator=generator)) / BANDS
        noise = torch.randn(len(pick), *latents.shape[1:], generator=generator)
        out.append(velocity_error(model, latents[pick].float(), s, prompts.embed(pick), noise).mean().item())
    return out


@torch.no_grad()
def sample(model: torch.nn.Module, context: Tensor, noise: Tensor, guidance: float, steps: int = 20) -> Tensor:
    """Latents by Euler steps at the levels that the host takes for SD3 (shift 3)."""
    u = torch.linspace(1, 0, steps + 1)
    x, context = noise, context.to(FAST)
    for s, following in zip(3 * u / (1 + 2 * u), (3 * u / (1 + 2 * u))[1:], strict=False):
        t = (1000 * s).expand(len(x))
        v = model(x.to(FAST), t, context=context).float()
        if guidance != 1:
            free = model(x.to(FAST), t, context=torch.zeros_like(context)).float()
            v = free + guidance * (v - free)
        x = x + (following - s) * v
    return x


@torch.no_grad()
def renew(model: torch.nn.Module, latents: Tensor, prompts: Prompts, pick: Tensor) -> Tensor:
    """The picked latents, noised to a level in [.05, .5], after four Euler steps: near them, with the network's faults.

    Half of them without their words. latents (N, 16, h, w), pick (n,) indices; returns (n, 16, h, w), half precision.
    """
    model, out = copy.deepcopy(model).to(FAST), []
    for part in tqdm(pick.split(BATCH), desc="renewing", unit="batch", mininterval=30):
        z, s = latents[part].float(), 0.05 + 0.45 * torch.rand(len(part), 1, 1, 1)
        context = prompts.embed(part, (torch.rand(len(part), 1) < 0.5).long()).to(FAST)
        x = (1 - s) * z + s * torch.randn_like(z)
        for left in (1.0, 0.75, 0.5, 0.25):
            x = x - s / 4 * model(x.to(FAST), 1000 * left * s.flatten(), context=context).float()
        out.append(x.half())
    return torch.cat(out)
