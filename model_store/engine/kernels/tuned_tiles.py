"""The fastest tiles, by measurement, for products and attention layers of known models.

A tile never changes an integer, so products may use any. Attention adds floats in the order of its
tile. So one table holds for a whole process, and no entry depends on the number of images. The
table is written by ``python -m benchmarks.engines.engine --device cuda``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TABLE_FILE = Path(__file__).with_name("tuned_tiles.json")

_WIDEST_RATIO = 2.0  # a measurement holds for half to twice as many rows

ProductTile = tuple[int, int, int, int, int]
"""Rows, columns, terms, warps and stages, as in `matrix.Tile`."""

AttentionKey = tuple[int, int, int, str]
"""Height, width, head width and dtype."""


@dataclass(frozen=True)
class TunedTiles:
    """Measured tiles.

    Attributes:
        products: By terms and columns, the tiles for numbers of rows.
        attention: By `AttentionKey`, the fields of an `attention.AttentionTile`.
    """

    products: Mapping[tuple[int, int], Mapping[int, ProductTile]] = field(default_factory=dict)
    attention: Mapping[AttentionKey, tuple[Any, ...]] = field(default_factory=dict)

    def product(self, rows: int, terms: int, columns: int) -> ProductTile | None:
        """Return the tile measured for the nearest number of rows; None when none is near."""
        measured = self.products.get((terms, columns), {})
        ratios = {max(rows / known, known / rows): tile for known, tile in measured.items()}
        if not ratios or min(ratios) > _WIDEST_RATIO:
            return None
        return ratios[min(ratios)]

    def to_json(self) -> str:
        """Return one line per entry; `from_json` reads them back."""
        products = [
            {"rows": rows, "terms": terms, "columns": columns, "tile": list(tile)}
            for (terms, columns), by_rows in sorted(self.products.items())
            for rows, tile in sorted(by_rows.items())
        ]
        attention = [
            {"grid": list(key), "tile": list(tile)} for key, tile in sorted(self.attention.items())
        ]
        lines = {
            name: "[\n  " + ",\n  ".join(map(json.dumps, entries)) + "\n ]" if entries else "[]"
            for name, entries in (("products", products), ("attention", attention))
        }
        return "{" + ",\n ".join(f'"{name}": {text}' for name, text in lines.items()) + "}\n"

    @classmethod
    def from_json(cls, text: str) -> TunedTiles:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        products: dict[tuple[int, int], dict[int, ProductTile]] = {}
        for entry in content["products"]:
            by_rows = products.setdefault((entry["terms"], entry["columns"]), {})
            by_rows[entry["rows"]] = tuple(entry["tile"])
        attention = {tuple(e["grid"]): tuple(e["tile"]) for e in content["attention"]}
        return cls(products, attention)


_in_use: TunedTiles | None = None


def tuned_tiles() -> TunedTiles:
    """Return the table in use: the stored one unless `use_tuned_tiles` was called."""
    global _in_use
    if _in_use is None:
        stored = TABLE_FILE.is_file()
        _in_use = TunedTiles.from_json(TABLE_FILE.read_text("utf-8")) if stored else TunedTiles()
    return _in_use


def use_tuned_tiles(table: TunedTiles) -> None:
    """Use another table from now on; for tuning, before a model is loaded."""
    global _in_use
    _in_use = table
