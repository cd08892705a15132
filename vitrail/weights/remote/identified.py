"""What located weights are: by their tensors, by what lies beside them, and by the table of published weights."""

from dataclasses import replace

from vitrail.recipe import Choice
from vitrail.weights.heads.image_text import explain_left_out
from vitrail.weights.identify import Identified, identify
from vitrail.weights.locate import Located
from vitrail.weights.read import RawWeights
from vitrail.weights.sidecar_input import read_input
from vitrail.weights.sidecars import Sidecar


def identify_located(
    raw: RawWeights, sidecar: Sidecar, located: Located, typed: Choice | None, source: str
) -> Identified:
    """What a file is: by itself, by what lies beside it, and by the table of published weights where it is in that.
    typed: the model that a person named. Errors: `CheckpointError`."""
    given = typed if typed is not None and typed.name else located.model
    if given is not None and typed is not None and not typed.name:
        given = Choice(given.name, {**given.keys, **typed.keys})
    found = identify(raw.tensors, sidecar, given or typed, source)
    if located.preprocessing and not read_input(sidecar):
        stated = replace(found.input, **located.preprocessing)
        found = replace(found, input=stated, input_reason="as the table of published weights has it")
    if why := explain_left_out(raw.tensors, sidecar):
        why = f"the image tower alone is read: {why}"
        found = replace(found, reasons=(*found.reasons, why), left_out=why)
    return found
