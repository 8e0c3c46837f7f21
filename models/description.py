"""flow.json, checked: what a checkpoint folder says of its flow."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from boltzray.molecules.storage import sha256

from .config import FlowConfig, GraphConfig

FORMAT_VERSION = 1
SCALES_NM = (0.01, 10.0)  # of one atom's vibration, and of a large protein: a scale beyond is that of damaged frames


@dataclass(frozen=True, kw_only=True)
class Description:
    """Contents of flow.json.

    `weights_sha256`: of the weights' file; `sha256`: of all else here. Earlier versions did not write them.
    """

    format: int
    config: dict[str, Any]
    scale_nm: float
    atom_order: Literal["iupac", "named", "file"] | None = None
    geometry: str | None = None
    weights_sha256: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = None

    def flow_config(self) -> FlowConfig:
        """The configuration. Raises: ValueError for one that no flow can have."""
        known = {f.name for f in fields(FlowConfig)}
        settings = {**self.config}
        if "spline_bins" in settings:  # of earlier versions, which had splines in blocks of internal coordinates
            settings.pop("spline_bins")
            if settings.get("coordinates") == "internal":
                raise ValueError(
                    "a flow of internal coordinates as earlier versions made them, in affine blocks; today's are "
                    "autoregressive densities: train it again (python jobs/train.py model=internal)"
                )
        if unknown := settings.keys() - known:
            raise ValueError(f"config has the unknown key {min(unknown)!r}")
        graph = settings.get("graph") or {}
        if isinstance(graph, dict) and (unknown := graph.keys() - {f.name for f in fields(GraphConfig)}):
            raise ValueError(f"config.graph has the unknown key {min(unknown)!r}")
        return _checked(FlowConfig, settings, "config.")


def parse(text: str | bytes) -> Description:
    """Read flow.json. Raises: ValueError of one line that says what is wrong with it."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError("it holds no description of a flow")
    if values.get("format") != FORMAT_VERSION:
        raise ValueError(f"it has format {values.get('format')!r}, this version reads {FORMAT_VERSION}")
    found = _checked(Description, values, "")
    check_scale(found.scale_nm)
    if found.sha256 and found.sha256 != _sum(values):
        raise ValueError("it is not what was written there: restore it, or, after an edit, delete its sha256")
    return found


def check_scale(scale_nm: float) -> None:
    """Raises: ValueError for a scale of lengths that no molecule has."""
    low, high = SCALES_NM
    if not low <= scale_nm <= high:
        raise ValueError(f"scale_nm={scale_nm:g} is no length of a molecule: it is between {low} and {high:g} nm")


def to_json(
    config: FlowConfig,
    scale_nm: float,
    atom_order: str,
    geometry: str | None,
    weights: Path,
    provenance: Mapping[str, Any],
) -> str:
    """flow.json of a flow whose weights are in the file `weights`."""
    values = {
        "format": FORMAT_VERSION,
        "config": asdict(config),
        "scale_nm": scale_nm,
        "atom_order": atom_order,
        **({"geometry": geometry} if geometry else {}),
        "weights_sha256": sha256(weights),
        "provenance": dict(provenance),
    }
    return json.dumps(values | {"sha256": _sum(values)}, indent=1)


def _sum(values: Mapping[str, Any]) -> str:
    """SHA-256 of all values but itself, in whatever order and layout."""
    others = {key: value for key, value in values.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _checked(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """An instance of a dataclass from JSON's values, of the types that it names and no others."""
    from pydantic import TypeAdapter, ValidationError  # not at import: networks need torch and numpy alone

    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(str(part) for part in first["loc"])
        reason = str(first["msg"]).removeprefix("Value error, ")
        got = "" if first["type"] in ("value_error", "missing", "dataclass_type") else f" (got {first['input']!r:.60})"
        raise ValueError(f"{key.rstrip('.')}: {reason}{got}".removeprefix(": ")) from None
