"""Creates the parameters of a method from its annotations."""

import inspect
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
)

from .annotations import (
    AnnotationError,
    from_text,
    from_texts,
    holds_file,
    is_list,
    request_name,
    source_of,
    without_alias,
)
from .errors import SignatureError
from .parameters import Member, Parameter
from .sources import Source

NO_DEFAULT = inspect.Parameter.empty


class ParameterMaker:
    """Creates the parameters of the method `name`. Its methods raise `SignatureError`."""

    def __init__(self, name: str) -> None:
        self.name: str = name

    def source(self, name: str, annotation: Any) -> Source | None:
        try:
            return source_of(annotation)
        except AnnotationError as error:
            raise SignatureError(f"{self.name}: parameter {name!r} {error}") from error

    def request_name(self, name: str, annotation: Any, source: Source | None = None) -> str:
        try:
            alias_or_name = request_name(annotation, name)
        except AnnotationError as error:
            raise SignatureError(f"{self.name}: parameter {name!r} {error}") from error
        if source is None:
            return alias_or_name
        in_request = source.name or (alias_or_name if alias_or_name != name else source.default_name(name))
        return in_request.lower() if source.where == "header" else in_request

    def parameter(self, source: Source, name: str, annotation: Any, default: Any) -> Parameter:
        where = source.where
        in_request = self.request_name(name, annotation, source)
        converted = without_alias(from_text(annotation))
        adapter = self.adapter(name, converted, written=annotation)
        if where != "form" and holds_file(annotation):
            raise SignatureError(
                f"{self.name}: {name!r} is a file, which cannot be in the {where}; annotate it with UploadFile alone"
            )
        repeated = self._is_list(where, name, annotation, adapter)
        return Parameter(where, in_request, name, converted, adapter, default, is_list=repeated)

    def _is_list(self, where: str, name: str, annotation: Any, adapter: TypeAdapter[Any]) -> bool:
        try:
            return is_list(adapter.core_schema)
        except AnnotationError as error:
            raise SignatureError(
                f"{self.name}: {where} parameter {name!r} cannot be of type {annotation!r}: it {error}"
            ) from error

    def group(self, source: Source, name: str, annotation: Any, model: type[BaseModel], default: Any) -> Parameter:
        """A group: each field of `model` is a parameter in the request."""
        where = source.where
        if default is not NO_DEFAULT or source.name is not None:
            raise SignatureError(
                f"{self.name}: {name!r} is a group of {where} parameters and cannot have a name or default of its own; "
                f"write '{name}: Annotated[{model.__name__}, {type(source).__name__}()]'"
            )
        members = []
        for field_name, field in model.model_fields.items():
            alias = field.validation_alias or field.alias
            if alias is not None and not isinstance(alias, str):
                raise SignatureError(f"{self.name}: {name}.{field_name} has the alias {alias!r}; use a string")
            in_request = alias or source.default_name(field_name)
            in_request = in_request.lower() if where == "header" else in_request
            label = f"{name}.{field_name}"
            converted = from_text(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)
            adapter = self.adapter(label, converted, written=field.annotation)
            repeated = self._is_list(where, label, field.annotation, adapter)
            members.append(Member(in_request, alias or field_name, repeated, field.is_required()))
        converted = from_texts(model)
        return Parameter(
            where,
            name,
            name,
            converted,
            self.adapter(name, converted, written=annotation),
            default,
            is_list=False,
            members=tuple(members),
            takes_others=where != "header" and model.model_config.get("extra") in ("allow", "forbid"),
        )

    def adapter(self, name: str, annotation: Any, mode: Any = "validation", *, written: Any = None) -> TypeAdapter[Any]:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(annotation)
            adapter.json_schema(mode=mode)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError) as error:
            shown = annotation if written is None else written
            raise SignatureError(
                f"{self.name}: pydantic does not support the annotation of {name!r}: {shown!r}; use another type"
            ) from error
        return adapter
