"""The comparison as one HTML page that needs nothing else: pictures inside, no scripts."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from PIL import Image

from experiments.gallery import Picture

if TYPE_CHECKING:
    from experiments.comparison import Comparison, Measure

TEMPLATE = Path(__file__).with_name("report.html.j2")


def html(
    title: str,
    result: "Comparison",
    rows: Sequence[Mapping[str, str]],
    measures: Sequence["Measure"],
    pictures: Mapping[str, Picture],
    link: str,
    hint: str,
) -> str:
    """The whole page."""
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    layers = {path.split("/")[1].removesuffix(".png"): picture for path, picture in pictures.items() if "/" in path}
    if set(result.last_layers) <= layers.keys() and len(set(result.last_layers)) == 1:
        del layers[result.last_layers[0]]  # shown above
    return template.render(
        title=title,
        result=result,
        rows=rows,
        headings=list(rows[0]),
        measures=measures,
        alt=alt_text(result),
        last=data_uri(pictures["side_by_side.png"]),
        layers={layer: data_uri(picture) for layer, picture in layers.items()},
        curves=data_uri(pictures["curves.png"]),
        link=link,
        hint=hint,
    )


def alt_text(result: "Comparison") -> str:
    """What the picture shows, for who cannot see it."""
    return (
        f"{len(result.probes.indices)} test images, one per row; the original, then the class activation map of "
        f"{', '.join(result.variants)} at the last layer, all on one colour scale"
    )


def data_uri(picture: Picture) -> str:
    """The picture as a PNG that can stand in the page itself."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
