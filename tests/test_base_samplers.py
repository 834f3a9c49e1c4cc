"""Every sampler of the host under a constraint: it obeys, draws well, or gives way to one that does and says so."""

import logging
from types import SimpleNamespace

import analytic
import pytest
import torch
from analytic_model import Means, analytic_model, to_latent, to_picture
from graphs import custom_sampling, give, inpaint_graph, newton_steps, sampled
from host import GraphError, node

# All names of the supported hosts, old and new.
NAMES = [
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0",
    "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm",
    "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2",
    "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
]  # fmt: skip
COUNT = 256
PRIOR = analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance())
TRUTH = PRIOR.draw(1, seed=7)
_, KNOWN = analytic.half_mask()


def listed(name):
    import comfy.samplers

    if name not in comfy.samplers.SAMPLER_NAMES:
        pytest.skip("not on this host")
    return name


def test_every_sampler_of_the_host_is_tested(host):
    import comfy.samplers

    assert set(comfy.samplers.SAMPLER_NAMES) <= set(NAMES)


@pytest.fixture(scope="module")
def model(host):
    """The prior in place of the shipped checkpoint's network."""
    graph = inpaint_graph(host)
    return analytic_model(host.run({"ckpt": graph["ckpt"], "out": node("TestCapture", value=["ckpt", 0])})[0], PRIOR)


@pytest.fixture
def graph(host, model):
    """KSampler on a constrained analytic model, and its own picture of the left half as a noise mask."""
    process_out = model.get_model_object("latent_format").process_out
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    latent = process_out(to_latent(TRUTH)).expand(COUNT, -1, -1, -1)
    words = [[torch.zeros(1, 4, 768), {}]]
    graph = {
        "model": give(host, "MODEL", model),
        "words": give(host, "CONDITIONING", words),
        "masked": give(host, "LATENT", {"samples": latent, "noise_mask": mask}),
        "free": give(host, "LATENT", {"samples": latent}),
        "means": give(host, "NEWTON_CONSTRAINT", Means(to_latent(TRUTH).mean(1, keepdim=True))),
        "constrained": node("NewtonConstrainModel", model=["model", 0]),
        "sample": node(
            "KSampler", model=["constrained", 0], positive=["words", 0], negative=["words", 0],
            latent_image=["masked", 0], seed=1, steps=20, cfg=1.0, sampler_name="euler", scheduler="simple",
            denoise=1.0,
        ),
        "out": node("TestCapture", value=["sample", 0]),
    }  # fmt: skip
    return graph


def drawn(host, graph, model, **inputs):
    """Flat pictures (COUNT, 64) of the prior."""
    graph["sample"]["inputs"] |= inputs
    return to_picture(model.get_model_object("latent_format").process_in(sampled(host, graph))).double().flatten(1)


def exact_draws(mean, cov, seed=1):
    values, modes = torch.linalg.eigh(cov)
    noise = torch.randn(2048, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + noise * values.clamp(min=0).sqrt() @ modes.T


def means_posterior():
    """Mean and covariance (64,), (64, 64) given the means of 2x2 pixels, and the matrix A (16, 64)."""
    pixels = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    a = to_latent(pixels).mean(1).reshape(64, 16).T
    gain = PRIOR.cov @ a.T @ torch.linalg.inv(a @ PRIOR.cov @ a.T)
    y = a @ TRUTH.double().flatten()
    return PRIOR.mean + gain @ (y - a @ PRIOR.mean), PRIOR.cov - gain @ a @ PRIOR.cov, a


@pytest.mark.parametrize("kind", ["mask", "super-resolution"])
@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_obeys_and_draws_well(host, graph, model, caplog, name, kind):
    adapter = host.module("nodes.comfy_adapter")
    latent = "masked" if kind == "mask" else "free"
    if kind == "super-resolution":
        graph["constrained"]["inputs"]["constraint"] = ["means", 0]
    ours = drawn(host, graph, model, sampler_name=listed(name), latent_image=[latent, 0])
    replaced = f"{name} {adapter.REPLACED.get(name)}, so it cannot be corrected" in caplog.text
    assert replaced == (name in adapter.REPLACED)
    if replaced and not name.startswith("uni_pc"):  # the host leaves a noise level out for these
        assert torch.equal(ours, drawn(host, graph, model, sampler_name="euler_ancestral"))
    graph["sample"]["inputs"] |= {"model": ["model", 0], "sampler_name": name}
    stock = drawn(host, graph, model)
    if kind == "mask":
        assert torch.allclose(ours[:, KNOWN], TRUTH.flatten()[KNOWN].double(), atol=1e-4)
        exact = exact_draws(*PRIOR.posterior(TRUTH.flatten(), KNOWN))
        distances = [analytic.energy_distance(x[:, ~KNOWN], exact) for x in (ours, stock)]
    else:
        mean, cov, a = means_posterior()
        off = [(x @ a.T - a @ mean).square().mean().sqrt().item() for x in (ours, stock)]
        print(f"\n{name}: rms off the means {off[0]:.3f}, stock {off[1]:.3f}")
        assert off[0] < 0.05 * off[1]
        distances = [analytic.energy_distance(x, exact_draws(mean, cov)) for x in (ours, stock)]
    print(f"\n{name}, {kind}: energy distance {distances[0]:.3f}, stock {distances[1]:.3f}")
    assert distances[0] < 0.35 * distances[1]


@pytest.mark.parametrize(
    "name", ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "er_sde", "res_multistep", "res_multistep_ancestral",
             "res_multistep_ancestral_cfg_pp", "dpmpp_2s_ancestral_cfg_pp", "uni_pc"]
)  # fmt: skip
def test_samplers_draw_well_on_flow_models(host, graph, model, caplog, name):
    """Those that leave the noise level of such a model give way too."""
    base_sampler = host.module("nodes.comfy_adapter.base_sampler")
    prior = analytic.Gaussian(PRIOR.mean, PRIOR.cov, analytic.flow)
    graph["flowing"] = give(host, "MODEL", analytic_model(model, prior))
    graph["model"] = node("ModelSamplingSD3", model=["flowing", 0], shift=1.0)
    ours = drawn(host, graph, model, sampler_name=name)
    assert (f"{name} is not made for flow models" in caplog.text) == (name in base_sampler.NOT_FLOW)
    assert torch.allclose(ours[:, KNOWN], TRUTH.flatten()[KNOWN].double(), atol=1e-4)
    graph["sample"]["inputs"]["model"] = ["model", 0]
    exact = exact_draws(*PRIOR.posterior(TRUTH.flatten(), KNOWN))
    distances = [analytic.energy_distance(x[:, ~KNOWN], exact) for x in (ours, drawn(host, graph, model))]
    print(f"\n{name} on a flow model: energy distance {distances[0]:.3f}, stock {distances[1]:.3f}")
    assert distances[0] < 0.35 * distances[1]


class Moved:
    """A model of one picture of zeros, which may move the x that it is handed at its n-th call."""

    def __init__(self, model, move_at):
        guider = SimpleNamespace(inner_model=model.model, model_patcher=model)
        self.inner_model, self.move_at, self.seen = guider, move_at, []

    def __call__(self, x, sigma, **extra_args):
        if len(self.seen) == self.move_at:
            x += 1.0
        self.seen.append(x.clone())
        for change in extra_args.get("model_options", {}).get("sampler_post_cfg_function", []):
            change({"denoised": torch.zeros_like(x), "uncond_denoised": torch.zeros_like(x)})
        return torch.zeros_like(x)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_sampler_hands_to_the_model_first_at_a_level_is_its_own_state(host, model, name):
    """Moved in place there, its x at the next level moves along, wherever it is to be driven over the whole run."""
    import comfy.samplers

    adapter = host.module("nodes.comfy_adapter")
    sampler, sigmas = comfy.samplers.sampler_object(listed(name)), torch.tensor([8.0, 5.0, 3.3, 2.1, 0.9, 0.5, 0.0])
    calls = 1 + (adapter.SINGLE_STEP | adapter.WHOLE_RUN).get(name, 0)

    def seen(move_at=None):
        moved = Moved(model, move_at)
        sampler.sampler_function(
            moved, torch.full((1, 4, 4, 4), 2.0), sigmas, extra_args={"seed": 1}, callback=None, disable=True,
            **sampler.extra_options,
        )  # fmt: skip
        return moved.seen

    level = 3
    plain, moved = seen(), seen(level * calls)
    after = (level + 1) * calls
    own = len(plain) > after and not torch.allclose(moved[after], plain[after], atol=1e-3)
    if name in adapter.WHOLE_RUN:
        assert own and len(plain) == 5 * calls + 1
        shift = moved[after] - plain[after]
        assert torch.allclose(shift, shift.mean().expand_as(shift), atol=1e-5)
    if name.startswith("sa_solver"):
        assert not own


@pytest.mark.parametrize("kind", ["mask", "super-resolution"])
def test_cfg_pp_without_guidance_is_the_sampler_itself(host, graph, model, kind):
    """With equal prompts CFG++ has nothing to guide by: what it takes from the negative one is corrected too."""
    if kind == "super-resolution":
        graph["constrained"]["inputs"]["constraint"] = ["means", 0]
        graph["sample"]["inputs"]["latent_image"] = ["free", 0]
    expected = drawn(host, graph, model, sampler_name="euler", cfg=2.0)
    assert torch.allclose(drawn(host, graph, model, sampler_name="euler_cfg_pp"), expected, atol=2e-3)


@pytest.mark.parametrize(("name", "own"), [("dpmpp_2m", 0), ("dpmpp_sde", 1)])
def test_calls_and_limits_of_a_sampler_that_runs_on(host, graph, model, name, own, caplog):
    graph["constrained"]["inputs"]["constraint"] = ["means", 0]
    graph["sample"]["inputs"] |= {"latent_image": ["free", 0], "sampler_name": name, "steps": 6}
    plain = 6 + 5 * own
    for limit, calls in ((plain, plain), (plain + 2, plain + 2), (0, plain + 6)):
        newton_steps(graph, "constrained", max_calls=limit)
        with caplog.at_level(logging.INFO, "newton_constrained_sampling"):
            host.run(graph)
        assert f"6 levels, {calls} model calls" in caplog.messages[-1]
    newton_steps(graph, "constrained", max_calls=plain - 1)
    with pytest.raises(GraphError, match="max_calls"):
        host.run(graph)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "er_sde", "dpmpp_sde"])
def test_warm_restarts_of_a_sampler_that_runs_on(host, graph, model, name, caplog):
    """Each restart is a run of its own, from fresh noise, over the levels that it comes to again."""
    newton_steps(graph, "constrained", hold=True, restarts=2, restart_from=0.5)
    with caplog.at_level(logging.INFO, "newton_constrained_sampling"):
        out = drawn(host, graph, model, sampler_name=name)
    assert "40 levels" in caplog.messages[-1]
    assert torch.allclose(out[:, KNOWN], TRUTH.flatten()[KNOWN].double(), atol=1e-4)
    exact = exact_draws(*PRIOR.posterior(TRUTH.flatten(), KNOWN))
    assert analytic.energy_distance(out[:, ~KNOWN], exact) < 0.5


def test_samplers_of_others_give_way_and_it_is_said(host, graph, model, caplog):
    """And where there is nothing to obey they run as they are."""
    import comfy.samplers

    class Others(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
            return torch.full_like(noise, 7.0)

    expected = drawn(host, graph, model, sampler_name="euler_ancestral")
    graph["ckpt"] = graph["model"]
    graph["count"] = graph["model"]
    custom_sampling(graph, give(host, "SAMPLER", Others()), ["masked", 0], steps=20)
    graph["sample"]["inputs"]["model"] = ["constrained", 0]
    assert torch.allclose(drawn(host, graph, model), expected, atol=1e-5)
    assert "Others is none of the host's own" in caplog.text
    assert (drawn(host, graph, model, latent_image=["free", 0]) != 0).all()
    assert len(caplog.messages) == 1
