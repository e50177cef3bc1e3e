"""Name -> class, imported only when asked for; the constructor's signature is the schema of a component's options."""

import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from twostage.errors import TwoStageError


class Registry(Mapping[str, Any]):
    """A read-only mapping from a component's name in a config to the class (or function) that builds it.

    Args:
        kind: what the components are, for error messages ("quantizer").
        targets: name -> "module:attribute".
        provided: constructor parameters that the program passes itself and that a config therefore must not set.
    """

    def __init__(self, kind: str, targets: Mapping[str, str], provided: tuple[str, ...] = ()) -> None:
        self.kind, self._targets, self.provided = kind, dict(targets), provided

    def __getitem__(self, name: str) -> Any:
        module, attribute = self._targets[name].split(":")
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def build(self, component: Mapping[str, Any], **provided: Any) -> Any:
        """Call the constructor that `component["name"]` names with the other entries and `provided`."""
        options = {key: value for key, value in component.items() if key != "name"}
        return self[component["name"]](**options, **provided)

    def resolve(self, component: Any, path: str) -> dict[str, Any]:
        """Check `{name: ..., option: value}` against the constructor and return it with every default written out.

        A `preset` entry is expanded from the class's `PRESETS` and does not appear in the result.

        Args:
            component: what the config says.
            path: where it stands in the config ("quantizer"), for error messages.

        Raises:
            TwoStageError: unknown name, unknown or mistyped option, value of the wrong type or out of range.
        """
        if not isinstance(component, Mapping) or "name" not in component:
            raise TwoStageError(f"{path}: {component!r} is not allowed; allowed: a mapping with a `name` key")
        name = component["name"]
        if name not in list(self):
            raise TwoStageError(f"{path}.name: {name!r} is not a {self.kind}; {suggest(name, list(self))}")
        options = {key: value for key, value in component.items() if key != "name"}
        if "preset" in options:
            presets: Mapping[str, Mapping[str, Any]] = getattr(self[name], "PRESETS", {})
            preset = options.pop("preset")
            if preset not in list(presets):
                raise TwoStageError(f"{path}.preset: {preset!r} is not a preset of {name}; {suggest(preset, presets)}")
            options = {**presets[preset], **options}
        try:
            return {"name": name, **self.schema(name).model_validate(options).model_dump()}
        except ValidationError as error:
            raise TwoStageError(first_error(error, self.schema(name), path)) from None
        except TwoStageError as error:  # of a component among the options, which knows its own key only
            raise TwoStageError(f"{path}.{error}") from None

    def schema(self, name: str) -> type[BaseModel]:
        """A strict pydantic model of the options of the component called `name`."""
        target = self[name]
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(target).parameters.values():
            if parameter.name not in self.provided:
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[parameter.name] = (hints[parameter.name], default)
        return create_model(
            name,
            __config__=ConfigDict(extra="forbid", strict=True, validate_default=True, protected_namespaces=()),
            **fields,
        )


def suggest(value: object, allowed: Any) -> str:
    """The tail of an error message: what is allowed, and the nearest of it."""
    names = [str(name) for name in allowed]
    near = get_close_matches(str(value), names, n=1)
    return f"allowed: {', '.join(names) or 'none'}" + (f" (did you mean {near[0]}?)" if near else "")


def first_error(error: ValidationError, model: type[BaseModel], path: str = "") -> str:
    """One line for the first thing wrong, unknown keys first: full key path, value, and what is allowed."""
    detail = min(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    location = [part for part in (path, *(str(part) for part in detail["loc"])) if part]
    key = ".".join(location)
    if detail["type"] == "extra_forbidden":
        for part in detail["loc"][:-1]:
            annotation = model.model_fields[str(part)].annotation
            model = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
        return f"{key}: unknown key; {suggest(detail['loc'][-1], model.model_fields)}"
    if detail["type"] == "missing":
        return f"{key}: missing; a value is required"
    reason = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {detail['input']!r} is not allowed; {reason[0].lower()}{reason[1:]}"
