"""Replicas of Ray Serve that run a generator function; calls go to any free replica."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from unsilent.errors import ParameterError, how_to_install


class _Deployment:
    """The deployment on a replica."""

    def __init__(self, build: Callable[[], Callable[[Any], Iterator[Any]]]) -> None:
        self._work = build()

    def stream(self, item: Any) -> Iterator[Any]:
        yield from self._work(item)


class Replicas:
    """Replicas on a cluster; Ray replaces those that die.

    Args:
        build: called once in every replica; returns a function that yields results for an item. Must be picklable.
        address: address of the cluster; `local` starts one, `auto` is the cluster of this machine.
        n: number of replicas, each with a GPU if the cluster has enough.

    Raises:
        ParameterError: if Ray Serve is not installed, or no cluster answers.
    """

    def __init__(self, build: Callable[[], Callable[[Any], Iterator[Any]]], address: str, n: int) -> None:
        try:
            import ray
            from ray import serve
        except ImportError:
            raise ParameterError(f"--ray needs the package ray; {how_to_install('cluster')}.") from None
        self._owns = not ray.is_initialized()
        try:
            if self._owns:
                place = {"num_cpus": n + 1} if address == "local" else {"address": address}
                ray.init(**place, log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise ParameterError(f"no Ray cluster answers at {address}: {error}.") from None
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / n)
        deployment = serve.deployment(
            _Deployment, num_replicas=n, max_ongoing_requests=1, ray_actor_options={"num_cpus": 1, "num_gpus": gpus}
        )
        serve.start(proxy_location="Disabled")  # calls come through the handle, not over HTTP
        self._handle = serve.run(deployment.bind(build), name="unsilent", route_prefix=None, blocking=False)

    def stream(self, item: Any) -> Iterator[Any]:
        """Yield the results of one item as they arrive."""
        yield from self._handle.options(stream=True).stream.remote(item)

    def close(self) -> None:
        """End the replicas, and the cluster if it was started here."""
        import ray
        from ray import serve

        serve.delete("unsilent")
        if self._owns:
            serve.shutdown()
            ray.shutdown()
