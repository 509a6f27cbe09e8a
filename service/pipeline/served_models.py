"""All served models, and the choice of one of them by a request.

Each has its own compute processes, so that no batch mixes two models and a fault of one does not
affect the others. Each is changed separately (`model_generations`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from model_store.model_info import ModelInfo
from service.compute.model_handle import ModelRefusedError
from service.compute.readiness import Readiness
from service.errors import UnknownModel
from service.pipeline.model_generations import Generation, HostFactory, ModelGenerations
from service.pipeline.served_readiness import ServedReadiness
from service.settings import Settings


class ServedModels:
    """The served models in the order of the settings; for the event loop's thread only.

    Attributes:
        each: generations of each model; the first is the default.
    """

    def __init__(
        self,
        settings: Settings,
        readiness: Readiness,
        make_host: HostFactory,
        on_refused: Callable[[Exception], None],
    ) -> None:
        """Make the models; nothing runs before `start`.

        Args:
            settings: settings, which name the models' folders.
            readiness: readiness of the process.
            make_host: makes the processes of a model.
            on_refused: called with the reason if a model cannot be loaded at all.
        """
        self._on_refused = on_refused
        folders = (settings.model, *settings.further_models)
        self._readiness = ServedReadiness(readiness, len(folders), self._same_name_twice)
        one_at_a_time = asyncio.Lock()
        self.each = tuple(
            ModelGenerations(
                settings.model_copy(update={"model": folder}),
                self._readiness.of_model(number),
                make_host,
                on_refused,
                changing=one_at_a_time,
                objection=self._objection_to(number),
            )
            for number, folder in enumerate(folders)
        )

    @property
    def first(self) -> ModelGenerations:
        """The default model."""
        return self.each[0]

    def is_ready(self, number: int) -> bool:
        """Return whether a model is proven; 0 is the first."""
        return self._readiness.is_ready(number)

    def start(self) -> None:
        """Start loading all of them."""
        for one in self.each:
            one.start()

    async def close(self, timeout_s: float) -> None:
        """End all of them."""
        await asyncio.gather(*(one.close(timeout_s) for one in self.each))

    @contextmanager
    def use(self, wanted: str | None) -> Generator[Generation, None, None]:
        """Return the served generation of the requested model, which a request keeps to its end.

        Args:
            wanted: `name/version`, or a name for the first of it; None for the first model.

        Raises:
            UnknownModel: no such model is served.
        """
        with self.named(wanted).use() as generation:
            yield generation

    def named(self, wanted: str | None) -> ModelGenerations:
        """Return the requested model; arguments and errors as in `use`."""
        if wanted is None:
            return self.first
        served = [(one, one.served.host.identity) for one in self.each]
        known = [(one, info) for one, info in served if info is not None]
        for one, info in known:
            if wanted in (name_of(info), info.name):
                return one
        names = ", ".join(name_of(info) for _, info in known)
        raise UnknownModel(f"The field model names no model that is served; these are: {names}.")

    def _objection_to(self, number: int) -> Callable[[ModelInfo], str | None]:
        """Return the check that no other served model has a new model's name."""

        def objection(info: ModelInfo) -> str | None:
            others = (one.served.host.identity for one in self.each if one is not self.each[number])
            is_taken = any(other is not None and _is_same(other, info) for other in others)
            return f"A model named {name_of(info)} is served already." if is_taken else None

        return objection

    def _same_name_twice(self) -> str | None:
        """Refuse to serve two models of the same name and version."""
        infos = [one.served.host.identity for one in self.each]
        names = [name_of(info) for info in infos if info is not None]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is None:
            return None
        sentence = f"Two of the models that are to be served are named {twice}; requests could not "
        sentence += "tell them apart."
        self._on_refused(ModelRefusedError(sentence, is_setting=True))
        return sentence


def name_of(info: ModelInfo) -> str:
    """Return the name of a model in requests: `name/version`."""
    return f"{info.name}/{info.version}"


def _is_same(one: ModelInfo, other: ModelInfo) -> bool:
    return (one.name, one.version) == (other.name, other.version)
