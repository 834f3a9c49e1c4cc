"""Ways to run the jobs of a batch: on the workers of Ray, or on ComfyUI servers that run already."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from client import Client, HostError, Result, ServerGone
from headless import ROOT, comfyui_folder
from rows import Job

RETRIES = 3  # of a row whose worker died
STARTS = 3
Outcome = tuple[Job, Result | HostError]


def start_ray(ray: Any, cores: int, address: str | None) -> None:
    """Start Ray here, or connect to a cluster. A machine too busy to start all its parts in time is asked again."""
    variables = {"PYTHONPATH": str(ROOT / "tools"), "COMFYUI_PATH": str(comfyui_folder())}
    variables["OMP_NUM_THREADS"] = str(cores)
    options = {"include_dashboard": False} if address is None else {}
    for attempt in range(STARTS):
        try:
            return ray.init(
                address or "local", log_to_driver=False, logging_level="CRITICAL",
                runtime_env={"env_vars": variables}, **options,
            )  # fmt: skip
        except Exception as e:  # Ray raises that very class too
            ray.shutdown()
            if address or attempt == STARTS - 1:
                what = f"--address {address}: no Ray cluster answers" if address else "Ray does not start here"
                raise HostError(f"{what}: {(str(e) or repr(e)).splitlines()[0]}") from None


class Workers:
    """`count` processes of Ray, each with `cores` cores and `gpus` GPUs, on this machine or on a cluster.

    Everything is Ray's own: a placement group holds the resources, a task is a row, a task whose process died runs
    again, pictures and results go through the object store. A process keeps its ComfyUI from task to task.
    """

    def __init__(self, count: int | None, cores: int, gpus: float | None, address: str | None):
        os.environ |= {
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_worker_niceness": "0",  # they are the work, not its background
        }  # fmt: skip
        import ray
        from ray.util.placement_group import placement_group

        start_ray(ray, cores, address)
        self.ray, there = ray, ray.cluster_resources()
        has_cores, has_gpus = int(there.get("CPU", 0)), there.get("GPU", 0)
        gpus = gpus if gpus is not None else float(has_gpus > 0)
        self.count = count or max(1, int(has_gpus / gpus) if gpus else has_cores // cores)
        if self.count * cores > has_cores or self.count * gpus > has_gpus:
            raise HostError(
                f"--workers {self.count}: they need {self.count * cores} cores and {self.count * gpus:g} GPUs, Ray has "
                f"{has_cores} and {has_gpus:g}; take fewer workers, or say what each gets by --cores and --gpus"
            )
        self.resources = {"num_cpus": cores, "num_gpus": gpus}
        self.group = placement_group([{"CPU": cores} | ({"GPU": gpus} if gpus else {})] * self.count)
        if not self.group.wait(60):
            raise HostError(f"--workers {self.count}: other work holds the cores or GPUs of the cluster")

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()

    def run(self, jobs: Iterator[Job], base: Path, extra_nodes: Path | None) -> Iterator[Outcome]:
        from in_process import run_row
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        place = PlacementGroupSchedulingStrategy(self.group)
        task = self.ray.remote(max_retries=RETRIES, scheduling_strategy=place, **self.resources)(run_row)
        pending: dict[object, Job] = {}
        while True:
            # Not all at once: their pictures would fill the object store.
            for job in islice(jobs, 2 * self.count - len(pending)):
                pending[task.remote(job.graph, job.pictures, base, extra_nodes)] = job
            if not pending:
                return
            (ready,), _ = self.ray.wait(list(pending), num_returns=1)
            yield pending.pop(ready), self.outcome(ready)

    def outcome(self, ready: object) -> Result | HostError:
        try:
            return self.ray.get(ready)
        except self.ray.exceptions.RayTaskError as e:
            cause = e.cause
            return cause if isinstance(cause, HostError) else HostError(f"{type(cause).__name__}: {cause}")
        except self.ray.exceptions.RayError as e:
            why = "perhaps for want of memory" if isinstance(e, self.ray.exceptions.WorkerCrashedError) else str(e)
            return HostError(f"its worker died {RETRIES + 1} times, {why}")


def on_servers(jobs: Iterator[Job], urls: list[str]) -> Iterator[Outcome]:
    """Each server runs one row at a time from its queue; one that goes away gives its row back."""
    clients = [Client(url) for url in urls]
    for client in clients:
        client.get("/system_stats")
    free, done = queue.SimpleQueue[Client](), queue.SimpleQueue[tuple[Client, Job, Result | HostError]]()
    for client in clients:
        free.put(client)
    again: list[Job] = []
    running = 0

    def one(client: Client, job: Job) -> None:
        try:
            for name, content in job.pictures.items():
                client.upload(name, content)
            done.put((client, job, client.run(job.graph)))
        except HostError as e:
            done.put((client, job, e))
        except Exception as e:
            done.put((client, job, HostError(f"{type(e).__name__}: {e}")))

    while True:
        while not free.empty() and (job := again.pop() if again else next(jobs, None)):
            threading.Thread(target=one, args=(free.get(), job), daemon=True).start()
            running += 1
        if not running:
            return
        client, job, outcome = done.get()
        running -= 1
        if isinstance(outcome, ServerGone) and running + free.qsize() > 0:
            print(f"{outcome}; the others go on without it", flush=True)
            again.append(job)
            continue
        if not isinstance(outcome, ServerGone):
            free.put(client)
        yield job, outcome
