"""The registry of agents: what `@tollway.agent` knows about a function, typed at both ends."""

import inspect
import typing
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from pydantic import PydanticInvalidForJsonSchema, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from tollway.domain.errors import ConfigError
from tollway.runtime.dependencies import checked_dependency

AgentFunction = Callable[..., Awaitable[Any]]
Decorated = TypeVar("Decorated", bound=AgentFunction)

_NAME_MAX = 128


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One registered agent. `timeout_s` bounds an attempt; `takes_input` is False for `async def f(run)`."""

    name: str
    version: str
    function: AgentFunction
    tier: str
    lane: str
    timeout_s: float
    max_attempts: int
    requires: tuple[str, ...]
    priority_s: float
    takes_input: bool
    input: TypeAdapter[Any]
    output: TypeAdapter[Any]

    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of what a submit must bring."""
        return self.input.json_schema(mode="validation")

    def output_schema(self) -> dict[str, Any]:
        """JSON Schema of what the run returns."""
        return self.output.json_schema(mode="serialization")


class Registry:
    """Agents by name."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentSpec] = {}

    def add(self, spec: AgentSpec) -> None:
        """Register an agent. A name is taken once; a module imported again replaces its own."""
        known = self._agents.get(spec.name)
        if known is not None and _home(known.function) != _home(spec.function):
            raise ConfigError(
                "agent",
                spec.name,
                f"is registered by {_home(known.function)} already; give one of them another name=",
            )
        self._agents[spec.name] = spec

    def get(self, name: str) -> AgentSpec | None:
        """The agent of that name, if this process has it."""
        return self._agents.get(name)

    def all(self) -> Sequence[AgentSpec]:
        """Every agent, in order of registration."""
        return list(self._agents.values())


registry = Registry()
"""What the modules named by `--agents` registered in this process."""


@overload
def agent(function: Decorated, /) -> Decorated: ...


@overload
def agent(
    *,
    name: str | None = None,
    tier: str = "fast",
    lane: str = "standard",
    timeout: float = 120,
    max_attempts: int = 3,
    version: str = "1",
    requires: Sequence[str] = (),
    priority_s: float = 0,
) -> Callable[[Decorated], Decorated]: ...


def agent(
    function: AgentFunction | None = None,
    /,
    *,
    name: str | None = None,
    tier: str = "fast",
    lane: str = "standard",
    timeout: float = 120,
    max_attempts: int = 3,
    version: str = "1",
    requires: Sequence[str] = (),
    priority_s: float = 0,
) -> Any:
    """Register an async function `f(run)` or `f(run, input)` as an agent; its name is the function's unless given.

    `timeout` is seconds per attempt. The input and output types may be Pydantic models or any JSON type; their JSON
    Schemas are published, and the API refuses what does not fit. Raises ConfigError for what cannot be an agent.
    """

    def register(target: AgentFunction) -> AgentFunction:
        spec = _specify(target, name or target.__name__, version)
        _check(spec.name, timeout, max_attempts, priority_s)
        _check_requires(spec.name, requires)
        registry.add(
            AgentSpec(
                spec.name,
                version,
                target,
                tier,
                lane,
                float(timeout),
                max_attempts,
                tuple(requires),
                float(priority_s),
                spec.takes_input,
                spec.input,
                spec.output,
            )
        )
        return target

    return register if function is None else register(function)


@dataclass(frozen=True, slots=True)
class _Signature:
    name: str
    takes_input: bool
    input: TypeAdapter[Any]
    output: TypeAdapter[Any]


def _specify(target: AgentFunction, name: str, version: str) -> _Signature:
    if not inspect.iscoroutinefunction(target):
        raise ConfigError("agent", name, "must be an async function: async def f(run, input)")
    if not version or len(version) > _NAME_MAX:
        raise ConfigError(f"agent {name}: version", version, f"must have 1 to {_NAME_MAX} characters")
    parameters = list(inspect.signature(target).parameters.values())
    if not 1 <= len(parameters) <= 2 or any(p.kind in (p.VAR_KEYWORD, p.KEYWORD_ONLY) for p in parameters):
        raise ConfigError("agent", name, "must take (run) or (run, input)")
    try:
        hints = typing.get_type_hints(target, include_extras=True)
    except NameError as error:
        raise ConfigError("agent", name, f"has a type hint that cannot be resolved: {error}") from error
    takes_input = len(parameters) == 2
    wanted: Any = hints.get(parameters[1].name, Any) if takes_input else None
    try:
        adapters = TypeAdapter(wanted), TypeAdapter(hints.get("return", Any))
        adapters[0].json_schema(mode="validation")
        adapters[1].json_schema(mode="serialization")
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError) as error:
        raise ConfigError("agent", name, f"has a type that JSON cannot carry: {error}") from error
    return _Signature(name, takes_input, *adapters)


def _check(name: str, timeout: float, max_attempts: int, priority_s: float) -> None:
    if not name.isprintable() or '"' in name or "\\" in name or not 1 <= len(name) <= _NAME_MAX:
        raise ConfigError("agent", name, f"must have 1 to {_NAME_MAX} printable characters, no quotes or backslashes")
    if not 0 < timeout < float("inf"):
        raise ConfigError(f"agent {name}: timeout", timeout, "must be a positive number of seconds")
    if not 1 <= max_attempts <= 100:
        raise ConfigError(f"agent {name}: max_attempts", max_attempts, "must be 1 to 100")
    if not abs(priority_s) <= 86_400:
        raise ConfigError(f"agent {name}: priority_s", priority_s, "must be at most a day")


def _check_requires(name: str, requires: Sequence[str]) -> None:
    if isinstance(requires, str):
        raise ConfigError(f"agent {name}: requires", requires, f'must be a list: requires=["{requires}"]')
    for dependency in requires:
        try:
            checked_dependency(dependency)
        except ValueError as error:
            raise ConfigError(f"agent {name}: requires", dependency, str(error)) from None


def _home(function: AgentFunction) -> str:
    return f"{function.__module__}.{function.__qualname__}"
