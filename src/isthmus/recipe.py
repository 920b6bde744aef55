"""One run as one validated record: YAML <-> pydantic <-> objects.

A recipe names everything that a fit needs besides the data. Parts that are chosen by name (network, objective, latent)
are written as their name with their own options beside it, checked against the signature of what they name:

    flow: {kind: freeform, latent_dim: 10, network: {kind: skip, width: 256}}
    objective: {kind: freeform, beta: 10, surrogate: encoder}
    training: {max_steps: 3000}

An unknown key or name is refused with the nearest valid one. Names are looked up in the library's own dicts; nothing
that a file names is ever imported.
"""

import difflib
import functools
import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from annotated_types import Ge
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    create_model,
    model_validator,
)
from torch import nn

from isthmus.errors import InputError
from isthmus.flow import Flow, Injection, LearnedManifold
from isthmus.flows import FLOWS
from isthmus.latents import LATENTS
from isthmus.levels import Levels, Range
from isthmus.networks import NETWORKS, Count
from isthmus.objective import OBJECTIVES, Objective
from isthmus.pipes import is_pipe, read_pipe
from isthmus.resources import check_devices, check_networks
from isthmus.supports import SUPPORTS, Support

__all__ = ["Part", "Recipe"]

Auto = Literal["auto"]
R = TypeVar("R", bound=BaseModel)

_LARGEST = 100_000  # characters of a recipe
_LONGEST = 40  # digits of a number
_LARGEST_INTEGER = 2**32

# Arguments that the data or other parts of a recipe decide; nor does a recipe hold modules.
_FROM_DATA = {"self", "data_dim", "latent_dim", "context_dim", "dim", "latent", "levels", "rows", "columns"}
_RENAMED = {"density": "refit"}  # sections, by the names that they had


def nearest(name: str, valid: Sequence[str] | Mapping[str, Any]) -> str:
    """Return `; did you mean 'x'?` for the valid name most like `name`, or the empty string."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


class _Loader(yaml.SafeLoader):
    """Reads plain YAML: no anchors, aliases, merge keys and tags, no key twice, no number of over `_LONGEST` digits.

    Aliases and merge keys make gigabytes of a few hundred bytes, and a recipe needs none.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse an anchor, alias or tag, and read any other node."""
        event: Any = self.peek_event()
        for extra in ("anchor", "tag"):
            if getattr(event, extra, None) is not None:  # of an alias, the name that it refers to
                refused = f"an anchor, alias or tag, {reprlib.repr(getattr(event, extra))}"
                raise yaml.MarkedYAMLError(problem=refused, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse `<<`, and what stands twice."""
        names: set[str] = set()
        for name in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if name == "<<" or name in names:
                refused = "a merge key" if name == "<<" else f"the key {reprlib.repr(name)} twice"
                raise yaml.MarkedYAMLError(problem=refused, problem_mark=node.start_mark)
            names.add(name)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Return a number whose text is no longer than any number needs; an integer within 2^32, as none needs more."""
        if len(node.value) > _LONGEST:
            raise yaml.MarkedYAMLError(problem=f"a number of {len(node.value)} digits", problem_mark=node.start_mark)
        if node.tag != "tag:yaml.org,2002:int":
            return self.construct_yaml_float(node)
        number = self.construct_yaml_int(node)
        if abs(number) > _LARGEST_INTEGER:
            raise yaml.MarkedYAMLError(problem=f"the integer {number}, beyond 2^32", problem_mark=node.start_mark)
        return number


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def _read_yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise InputError(f"expected a recipe in plain YAML; got {reason}; correct it") from error


def _assign(record: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        record = record.setdefault(key, {})
        if not isinstance(record, dict):
            raise InputError(f"expected {key!r} to hold keys in {'.'.join(path)}; got a value; shorten the key")
    record[path[-1]] = value


def _validated(model: type[R], record: Mapping[str, Any], where: str) -> R:
    try:
        return model.model_validate(record)
    except ValidationError as error:
        raise InputError(_first_error(model, error, where)) from error


def _first_error(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    if first["type"] == "value_error":
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    keys: list[str] = []
    fields: Mapping[str, Any] = {}
    owner: Any = model
    for key in map(str, first["loc"]):
        if not hasattr(owner, "model_fields"):  # what follows names a part of a type
            break
        keys.append(key)
        fields = owner.model_fields
        owner = fields[key].annotation if key in fields else None
    if first["type"] != "extra_forbidden":
        return f"{where}: {'.'.join(keys)}: {first['msg']}; got {reprlib.repr(first['input'])[:100]}"
    return f"{where}: unknown key {'.'.join(keys)!r}{nearest(keys[-1], fields)}"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Part(_Record):
    """A name out of one of the library's dicts, with options for what it names.

    Example:
        >>> Part(kind="mlp", width=64).build(NETWORKS, 5, 2)[0].layers[0][0].out_features
        64
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    kind: str

    @property
    def options(self) -> dict[str, Any]:
        """The options beside the name."""
        return dict(self.model_extra or {})

    def check(self, registry: Mapping[str, Callable[..., Any]], what: str) -> Self:
        """Refuse an unknown name, an unknown option, or a value of the wrong type.

        Args:
            registry: the dict that the name is looked up in.
            what: what the dict holds, for the message.

        Raises:
            InputError: with the nearest valid name.
        """
        if self.kind not in registry:
            hint = nearest(self.kind, registry)
            raise InputError(f"expected one of {', '.join(registry)} as {what}; got {self.kind!r}{hint}")
        self._typed(registry, what)
        return self

    def build(self, registry: Mapping[str, Callable[..., Any]], *arguments: Any, **named: Any) -> Any:
        """Call what the name stands for with `arguments` and the options, each of the type that is asked for."""
        typed = self._typed(registry, "options of")
        return registry[self.kind](*arguments, **named, **{name: getattr(typed, name) for name in self.options})

    def _typed(self, registry: Mapping[str, Callable[..., Any]], what: str) -> BaseModel:
        return _validated(_signature(registry[self.kind], type(self)), dict(self), f"{what} {self.kind!r}")


@functools.cache
def _parameters(named: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a callable by name, their annotations evaluated."""
    return dict(inspect.signature(named, eval_str=True).parameters)


def _modules(named: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that are modules, in their order."""
    return [name for name, parameter in _parameters(named).items() if parameter.annotation is nn.Module]


@functools.cache
def _signature(named: Callable[..., Any], part: type[Part]) -> type[BaseModel]:
    """Return a record of the part's own fields and of the options of what it names."""
    fields: dict[str, Any] = {
        p.name: (p.annotation, ... if p.default is p.empty else p.default)
        for p in _parameters(named).values()
        if p.name not in _FROM_DATA and p.annotation is not nn.Module
    }
    own = {name: (field.annotation, field) for name, field in part.model_fields.items()}
    return create_model(named.__name__, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **{**fields, **own})


class NetworkPart(Part):
    """A pair out of `NETWORKS` with its options."""

    kind: str = "skip"


class LatentPart(Part):
    """A latent density out of `LATENTS` with its options."""

    kind: str = "normal"


class ObjectivePart(Part):
    """An objective out of `OBJECTIVES` with its options."""

    kind: str = "freeform"


class FlowRecipe(Part):
    """Which law is learnt: a name out of `FLOWS`, and its options.

    `network` and `latent` are there where the constructor of the flow takes modules or a latent density.
    """

    kind: str = "freeform"
    latent_dim: Count | Auto = "auto"
    network: NetworkPart | None = None
    latent: LatentPart | None = None
    initialise: Literal["auto", "random"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, record: Any) -> Any:
        kind = record.get("kind", "freeform") if isinstance(record, Mapping) else None
        if kind not in FLOWS:
            return record
        return {**{name: {} for name in _parts(kind)}, **record}

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.check(FLOWS, "flow")
        FLOWS[self.kind].check_options(self.options)
        for name, registry in (("network", NETWORKS), ("latent", LATENTS)):
            part = getattr(self, name)
            if part is not None:
                part.check(registry, name)
                if name not in _parts(self.kind):
                    raise InputError(
                        f"expected no {name} for flow {self.kind!r}, which takes none; got one; leave it out"
                    )
        if self.latent_dim != "auto" and "latent_dim" not in _parameters(FLOWS[self.kind]):
            raise InputError(
                f"expected no latent_dim for flow {self.kind!r}, which has no codes; got {self.latent_dim}; leave it "
                "out"
            )
        return self


def _parts(flow: str) -> list[str]:
    """Return which parts of a recipe a flow takes beside its own options."""
    takes = {"network": bool(_modules(FLOWS[flow])), "latent": "latent" in _parameters(FLOWS[flow])}
    return [name for name, taken in takes.items() if taken]


class TrainingRecipe(_Record):
    """How it is trained. `auto` values follow from the number of rows and columns, see `isthmus.training`."""

    max_steps: Annotated[int, Ge(0)] | Auto = Field("auto", description="optimiser steps; 0 keeps the start")
    max_time: float | None = Field(
        None, gt=0, description="seconds of the whole fit, trials, refit and checks included; of `train`, of it alone"
    )
    batch_size: Count | Auto = Field("auto", description="rows a step")
    learning_rate: PositiveFloat | Auto = Field("auto", description="highest learning rate of the one-cycle schedule")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of AdamW")
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    noise: NonNegativeFloat | Auto | tuple[PositiveFloat, PositiveFloat] = Field(
        "auto",
        description="standard deviation of the noise added to standardised columns; [low, high]: drawn for every row, "
        "and told the networks",
    )
    warm_up: float = Field(0.2, ge=0, le=1, description="share of the steps before the likelihood has its full weight")
    gradient_clip: float | None = Field(1.0, gt=0, description="largest gradient norm; none for no clipping")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="share of the rows held out")
    validations: int = Field(20, ge=1, description="how many times the held-out rows are scored")
    patience: int = Field(8, ge=1, description="validations without improvement after which training stops")
    keep: Literal["best", "last"] = Field("best", description="which weights: best on held-out rows, or the last")
    accelerator: Literal["auto", "cpu", "gpu"] = "cpu"
    devices: Count = Field(1, description="accelerators, or processes of the CPU, that share every batch")
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true"
    compile: bool | Auto = Field("auto", description="torch.compile of the whole objective")

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.levels(None)
        return self

    def levels(self, objective: Objective | None) -> Levels:
        """Return what the networks are told of the training: the noise and beta of each row where they have a range."""
        noise = Range(*self.noise) if isinstance(self.noise, tuple) else None
        return Levels(noise, objective.beta_range if objective is not None else None)


class RefitRecipe(_Record):
    """What is fitted to the codes and residuals after training, the networks untouched."""

    latent: Literal["auto", "as trained", "gaussian", "mixture", "flow"] = "auto"
    noise: Literal["auto", "isotropic", "component", "low_rank"] = "auto"
    flow_steps: Count = Field(200, description="optimiser steps of a latent flow")


class ColumnsRecipe(_Record):
    """How columns are prepared; part of the model, its log-determinant always included in densities."""

    standardise: bool = True
    heavy_tails: bool = Field(
        default=True, description="curve heavy-tailed columns where held-out rows gain by it; needs standardise"
    )
    dequantise: bool = Field(
        default=True, description="spread integer columns over [-1/2, 1/2) around each value in training"
    )
    image: tuple[Count, Count, Count] | None = Field(
        None, description="channels, height, width, where a row is an image: one mean and scale for all of its columns"
    )


class Recipe(_Record):
    """Everything that a fit needs besides the data.

    Example:
        >>> Recipe.parse("{flow: {latent_dim: 3}, objective: {kind: freeform, beta: 5}}").objective.options
        {'beta': 5}
        >>> Recipe.parse("{flow: {latnt_dim: 3}}")
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: recipe: flow 'freeform': unknown key 'latnt_dim'; did you mean 'latent_dim'?
    """

    flow: FlowRecipe = FlowRecipe()
    support: Part = Part(kind="euclidean")
    objective: ObjectivePart = ObjectivePart()
    training: TrainingRecipe = TrainingRecipe()
    refit: RefitRecipe = RefitRecipe()
    columns: ColumnsRecipe = ColumnsRecipe()
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, record: Any) -> Any:
        """Rename sections that had other names, and take objective and support from the flow."""
        if not isinstance(record, Mapping):
            return record
        filled = {name: value for name, value in record.items() if name not in _RENAMED}
        for old, new in _RENAMED.items():
            if old in record:
                both = [filled.get(new), record[old]]
                filled[new] = {**(both[0] or {}), **both[1]} if isinstance(both[1], Mapping) else both[1]
        flow = filled.get("flow", {})
        kind = FLOWS.get(flow.get("kind", "freeform")) if isinstance(flow, Mapping) else None
        if kind is not None:
            for name, default in (("objective", kind.objective), ("support", kind.supports[0])):
                if isinstance(filled.get(name, {}), Mapping):
                    filled[name] = {"kind": default, **filled.get(name, {})}
        return filled

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.support.check(SUPPORTS, "support")
        self.objective.check(OBJECTIVES, "objective")
        kind, objective = FLOWS[self.flow.kind], OBJECTIVES[self.objective.kind]
        if not objective.serves(kind):
            serving = ", ".join(repr(name) for name, other in OBJECTIVES.items() if other.serves(kind))
            raise InputError(
                f"expected an objective that can train flow {self.flow.kind!r}, {serving}; got "
                f"{self.objective.kind!r}; choose one of them"
            )
        if self.support.kind not in kind.supports:
            raise InputError(
                f"expected a support that flow {self.flow.kind!r} can serve, {', '.join(kind.supports)}; got "
                f"{self.support.kind!r}; choose one of them, or another flow"
            )
        levels = self.build_levels()
        if levels and "levels" not in _parameters(kind):
            ranges = " and ".join(levels.ranges)
            raise InputError(
                f"expected a flow of networks, as 'freeform', to be told {ranges} of a range; got {self.flow.kind!r}; "
                "give one number"
            )
        self._check_unread(kind)
        return self

    def _check_unread(self, kind: type[Flow]) -> None:
        """Refuse what nothing would read."""
        unread = {
            "refit.noise": self.refit.noise != "auto" and not issubclass(kind, LearnedManifold),
            "refit.latent": self.refit.latent not in ("auto", "as trained")
            and not (issubclass(kind, Injection) and kind.refits),
            "training.noise": self.training.noise not in ("auto", 0.0) and self.support.kind == "categories",
            "columns": self.columns != ColumnsRecipe() and self.support.kind != "euclidean",
        }
        for name in (name for name, refused in unread.items() if refused):
            raise InputError(
                f"expected no {name} for flow {self.flow.kind!r} on support {self.support.kind!r}, which does not read "
                "it; got one; leave it out"
            )

    @classmethod
    def parse(cls, text: str, settings: Sequence[str] = ()) -> "Recipe":
        """Read YAML text, then apply settings of the form `training.max_steps=100`.

        Args:
            text: YAML, plain, without anchors, merge keys and tags; may be empty.
            settings: `dotted.key=value` pairs, the value read as YAML.

        Returns:
            The validated recipe.

        Raises:
            InputError: one line: what is wrong, and the nearest valid name.
        """
        record = _read_yaml(text) or {}
        if not isinstance(record, dict):
            got = type(record).__name__
            raise InputError(f"expected a recipe of keys and values; got {got}; see `isthmus inspect`")
        for setting in settings:
            key, separator, value = setting.partition("=")
            if not separator or not key:
                raise InputError(f"expected key=value; got {setting!r}; write for example training.max_steps=1000")
            _assign(record, key.split("."), _read_yaml(value))
        return _validated(cls, record, "recipe")

    @classmethod
    def validated(cls, record: Mapping[str, Any]) -> "Recipe":
        """Validate nested dicts as a recipe; see `parse` for what is refused."""
        return _validated(cls, record, "recipe")

    @classmethod
    def read(cls, path: Path, settings: Sequence[str] = ()) -> "Recipe":
        """Read a YAML file, or a pipe; see `parse`."""
        try:
            if is_pipe(path):
                text = read_pipe(path).decode()
            else:
                with path.open(encoding="utf-8") as file:
                    text = file.read(_LARGEST + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"expected a recipe file at {path}; got {error}; give a readable YAML file") from error
        if len(text) > _LARGEST:
            raise InputError(f"expected a recipe of at most {_LARGEST} characters at {path}; got more; shorten it")
        return cls.parse(text, settings)

    def dump(self, *, whole: bool = True) -> str:
        """Return the recipe as YAML text that `parse` reads back to an equal recipe.

        Args:
            whole: whether what was left to the defaults stands in it too.
        """
        return yaml.safe_dump(self.model_dump(mode="json", exclude_unset=not whole), sort_keys=False)

    def update(self, **sections: Any) -> "Recipe":
        """Return a copy with some values replaced: `recipe.update(training={"max_steps": 100})`.

        Of another flow than before only what that flow takes is kept of the others.
        """
        record = self.model_dump(mode="json")
        sections = {_RENAMED.get(name, name): values for name, values in sections.items()}
        kind = (
            sections.get("flow", {}).get("kind", self.flow.kind)
            if isinstance(sections.get("flow", {}), Mapping)
            else ""
        )
        if kind in FLOWS and kind != self.flow.kind:
            before, kept = FLOWS[self.flow.kind], {"latent_dim", "initialise", *_parts(kind)}
            record["flow"] = {name: value for name, value in record["flow"].items() if name in kept}
            usual = {"objective": before.objective, "support": before.supports[0]}
            record = {name: value for name, value in record.items() if value != {"kind": usual.get(name)}}
        for section, values in sections.items():
            record[section] = {**record.get(section, {}), **values} if isinstance(values, Mapping) else values
        return _validated(type(self), record, "recipe")

    def check_machine(self) -> None:
        """Refuse, before any work, more devices than this machine has, and networks that cannot fit into its memory.

        Not when a recipe is read, since that of a model may come from a larger machine.

        Raises:
            InputError: it has less.
        """
        check_devices(self.training.devices, self.training.accelerator)
        self._check_networks()

    def _check_networks(self) -> None:
        flow, network, latent = self.flow, self.flow.network, self.flow.latent
        parts = {"flow": flow._typed(FLOWS, "flow")}
        parts |= {} if network is None else {"flow.network": network._typed(NETWORKS, "network")}
        parts |= {} if latent is None else {"flow.latent": latent._typed(LATENTS, "latent")}
        check_networks({key: part.model_dump(exclude={"network", "latent"}) for key, part in parts.items()})

    def build_objective(self) -> Objective:
        """Return the objective that the recipe names."""
        return self.objective.build(OBJECTIVES)

    def build_levels(self) -> Levels:
        """Return what the networks are told beside the context: noise and beta of each row, where they have a range."""
        return self.training.levels(self.build_objective())

    def build_support(self, columns: int) -> Support:
        """Return the support that the recipe names, for so many columns."""
        return self.support.build(SUPPORTS, columns)

    def build_flow(self, data_dim: int, latent_dim: int, context_dim: int = 0) -> Flow:
        """Return the untrained flow that the recipe names, for D columns, d latent dimensions and C context columns.

        Every argument of its constructor that is no option of a recipe is given by its name.
        """
        self._check_networks()
        kind, levels = FLOWS[self.flow.kind], self.build_levels()
        told = (data_dim, latent_dim, context_dim + len(levels))
        given: dict[str, Any] = {"data_dim": data_dim, "latent_dim": latent_dim, "context_dim": context_dim}
        modules = _modules(kind)
        if self.flow.network is not None:
            given |= zip(modules, self.flow.network.build(NETWORKS, *told), strict=False)
        if self.flow.latent is not None:
            given["latent"] = self.flow.latent.build(LATENTS, latent_dim, context_dim)
        for name in modules[2:]:  # each another encoder
            given[name], _ = self.flow.network.build(NETWORKS, *told)  # type: ignore[union-attr]
        given |= {"levels": levels.start, "rows": self.build_support(data_dim)}
        takes = _parameters(kind)
        return self.flow.build(FLOWS, **{name: value for name, value in given.items() if name in takes})
