"""The tables of docs/program.md, from `golden.program.descriptor`."""

from collections.abc import Sequence

from golden.program.descriptor import FIELDS, LIMITS, Field, Opcode

__all__ = ["BEGIN", "END", "markdown"]

BEGIN = "<!-- made by `python -m golden.program fields`; do not edit -->"
END = "<!-- end -->"


def markdown() -> str:
    """Fields and limits of all descriptors, with the markers around them."""
    lines = [BEGIN]
    for opcode, fields in FIELDS.items():
        lines += ["", f"**{opcode.name}** ({opcode.value})", "", "| word | bits | field | legal, else SIZE | meaning |",
                  "| --- | --- | --- | --- | --- |"]
        lines += [_row(field) for field in _own(opcode, fields)]
    return "\n".join([*lines, "", END, ""])


def _own(opcode: Opcode, fields: Sequence[Field]) -> list[Field]:
    """All fields in the order of their bits; those that all opcodes have are only listed once."""
    common = () if opcode is Opcode.END else FIELDS[Opcode.END]
    return sorted((field for field in fields if field not in common), key=lambda field: field.first_bit)


def _row(field: Field) -> str:
    last = field.lsb + field.bits - 1
    bits = f"{field.lsb}" if field.bits == 1 else f"{last}:{field.lsb}"
    word, legal = f"w{field.word}", ""
    if field.bits > 32:
        word, bits = f"w{field.word}, w{field.word + 1}", "63:0"
    if field.name in LIMITS:
        legal = f"{LIMITS[field.name].low} to {LIMITS[field.name].text}"
    return f"| {word} | {bits} | `{field.name}` | {legal} | {field.meaning} |"
