"""Pictures that the model made when it was judged."""

import base64
import json

from vitrail.report.known import Known
from vitrail.report.markup import Section, name, paragraphs, table, text
from vitrail.report.words import percent
from vitrail.run.sample import ACROSS, GUIDANCE, QUICK, shown

SPOKEN = {
    "frechet": "Fréchet distance", "precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage",
}  # fmt: skip


def pictures(known: Known) -> Section | None:
    """A row for each class, from a seed that is always the same."""
    if not known.generates:
        return None
    title = "What it makes"
    try:
        data = known.folder.samples.read_bytes()
    except OSError:
        return Section("made", title, ["Pictures are made when the run is finished."], "")
    guided = int(known.recipe.model.keys.get("classes", 1)) > 0
    names = [name(known.classes[i]) for i in shown(len(known.classes))] if guided else []
    said = [
        f"{ACROSS} pictures {'of each class ' if guided else ''}as they come: seed 0, {QUICK} steps, "
        f"{f'guidance {GUIDANCE:g}' if guided else 'no guidance'}, averaged weights where there are such. Nothing was picked out.",
    ]
    if names:
        said.append(f"Row by row: {', '.join(names)}. Pictures in a column begin with the same noise.")
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return Section("made", title, said, f'<img alt="pictures that the model made" class="pixels made" src="{source}">{quality(known)}')


def quality(known: Known) -> str:
    """What `vitrail eval --features` found last."""
    try:
        found = json.loads(known.folder.quality.read_text(encoding="utf-8"))
        rows = [[text(SPOKEN[key]), f"{value:.4g}"] for key, value in found["metrics"].items()]
        if found["asked"] is not None:
            rows.append(["Of the class asked for", f"{percent(found['asked'])} (of real pictures {percent(found['asked_of_real'])})"])
        told = f"{found['made']:,} made and {found['real']:,} real pictures of the {found['part']} part, "
        told += f"by {found['width']} features of {found['by']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return paragraphs([text(told) + "."]) + table(["", ""], rows, "facts")
