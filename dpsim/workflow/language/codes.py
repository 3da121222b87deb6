"""Every problem a workflow file can have: one row each, printed by ``dpsim explain E304``.

Codes are stable: a row may be added, never renumbered. E1xx is the text of the file, E2xx its keys and
values, E3xx the links between stages, E4xx the world around the file.
"""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """One kind of problem."""

    title: str
    page: str
    """What it means, why it is an error, and how to mend it."""


CODES: dict[str, Code] = {
    "E101": Code(
        "The file is not valid YAML",
        "The reader stopped at the place shown. Common reasons: a tab used for indentation, a missing space "
        'after a colon, a bracket or a quote that is not closed, or "${...}" without quotes inside {...}: '
        'write "${vars.T}".',
    ),
    "E102": Code(
        "A key is written twice",
        "YAML readers usually keep the last one silently. Remove one of the two.",
    ),
    "E103": Code(
        "The file is too large, or means too much",
        "A workflow file may have 1 MB, 64 levels, 100,000 values after its aliases (*name) are expanded, and "
        "2,000,000 values after ${...} and every matrix are filled in. A file that needs more holds data; put "
        "those in a file of their own and name it with {path: ...}.",
    ),
    "E104": Code(
        "A YAML tag that is not allowed",
        "Only plain values are read: text, numbers, true/false, null, lists and mappings. Tags such as "
        "!!python/object or !include are refused. Use 'include:' at the top of the file to read another "
        "file.",
    ),
    "E105": Code(
        "A key is not text",
        'Keys of a workflow are names. Put quotes around it ("300": ...) or, for a list of values, use [..].',
    ),
    "E106": Code(
        "A file cannot be read",
        "The file is absent, a folder, not readable, or not UTF-8 text. Paths of 'include' are relative to "
        "the file that holds them; all other paths are relative to the workflow file.",
    ),
    "E107": Code(
        "Included files contradict each other",
        "'include' merges mappings. Two files may not give different values to the same key: remove one, or "
        "set it with --set on the command line.",
    ),
    "E108": Code(
        "Files include each other in a circle",
        "Follow the chain in the message and remove one 'include'.",
    ),
    "E109": Code(
        "A --set or profile override cannot be applied",
        "Overrides are written path=value, for example --set stages.model.steps=500. Every part of the path "
        "but the last must exist; a number selects an item of a list (stages.melt.run.0.time='5 ps').",
    ),
    "E201": Code(
        "The language version is missing",
        "The first key of a workflow file is 'dpsim: 1'. It says which version of the language the file is written in.",
    ),
    "E202": Code(
        "An unknown language version",
        "This dpsim reads version 1. A newer file needs a newer dpsim.",
    ),
    "E203": Code(
        "An unknown key",
        "The key is not one of this mapping; options that would silently do nothing are errors. Notes go "
        "into 'notes:' or into a key that begins with 'x-', which is ignored.",
    ),
    "E204": Code(
        "A needed key is missing",
        "The mapping at the place shown needs this key. 'dpsim schema' prints every key with its meaning.",
    ),
    "E205": Code(
        "A value of the wrong kind or out of range",
        "The message says what was found and what is expected. Note the rules of this YAML: yes/no/on/off "
        "are text, true/false are booleans, 1e-3 is a number, 12:30 is text.",
    ),
    "E206": Code(
        "A value that is not one of the choices",
        "The choices are listed below the message.",
    ),
    "E207": Code(
        "A wrong unit",
        "Quantities carry their unit in the text: '2 fs', '1 bar', '6 angstrom', '4 %'. A bare number is in "
        "dpsim's own unit (angstrom, eV, eV/angstrom, ps, K, bar, s), which 'dpsim plan' prints.",
    ),
    "E208": Code(
        "An unknown stage type",
        "'uses:' names the type of a stage; the types are listed below the message.",
    ),
    "E209": Code(
        "A bad stage name",
        "Names of stages begin with a letter and hold letters, digits, '_' and '-'. A dot separates a stage "
        "from its output (model.best), so it cannot be part of a name.",
    ),
    "E210": Code(
        "A ${...} that cannot be filled in",
        "${vars.X} needs X under 'vars:', ${env.X} an environment variable X, ${matrix.X} an axis X in the "
        "'matrix:' of the same stage. There are no expressions. To write a dollar and a brace as they are, "
        "double the dollar: $${...}.",
    ),
    "E211": Code(
        "A bad matrix",
        "'matrix:' maps names to lists of values: matrix: {T: [300, 600], P: [1 bar]}. Every combination "
        "becomes one run of the stage, so values of an axis must differ, and the stage must use each axis: "
        'temperature: "${matrix.T} K", seed: "${matrix.repeat}". All stages of a file together may have '
        "10,000 runs.",
    ),
    "E212": Code(
        "The type_map is missing or wrong",
        "'type_map: [H, O]' at the top of the file lists the elements of the model in order, each once, as "
        "chemical symbols.",
    ),
    "E213": Code(
        "An unknown profile",
        "--profile names an entry of 'profiles:' in the file.",
    ),
    "E214": Code(
        "A profile or a cluster that cannot be used",
        "'machine:' of a profile is dpdispatcher's description of a cluster: a mapping, a JSON or YAML file with one, "
        "or a name under 'machines:'. The smallest: {batch_type: Slurm, context_type: LazyLocalContext}. "
        "'here:' lists names or types of stages of this workflow.",
    ),
    "E301": Code(
        "An unknown stage",
        "The reference names a stage that does not exist, or that 'when: false' or a filter removed. A file "
        "outside of the workflow is written {path: data/frames.extxyz}.",
    ),
    "E302": Code(
        "Stages wait for each other in a circle",
        "Order comes from references only. Follow the chain in the message and cut it at one place.",
    ),
    "E303": Code(
        "An input takes one artifact, several are given",
        "The stage referred to has a matrix, so it yields several results, or the pattern matches several "
        "files; this input takes one. Use a stage whose input takes a list (convert, test, report), give this "
        "stage the same matrix and refer to one point, or name one file.",
    ),
    "E304": Code(
        "An unknown output",
        "A reference is 'stage' (its main output) or 'stage.output'. The outputs of the stage are listed "
        "below the message.",
    ),
    "E305": Code(
        "An output of the wrong kind",
        "The stage referred to yields something else than this input takes, for example a frozen model "
        "where frames are expected. The message says which kinds fit.",
    ),
    "E401": Code(
        "A file that the workflow names does not exist",
        "Paths are relative to the workflow file; '*' and '**' match names and folders. Nothing matched.",
    ),
    "E402": Code(
        "An element that is not in type_map",
        "Every element of a structure needs a place in 'type_map:'. Add it, or remove the structure.",
    ),
    "E403": Code(
        "A package or program that a stage needs is not installed",
        "The message names the package and the command that installs it, or what is to be written into the file that "
        "says how a program is started.",
    ),
    "E404": Code(
        "A stage asks for more than there is",
        "'resources:' of the stage asks for more cores or GPUs than this machine, the profile's 'slots:' or -j grants.",
    ),
    "E405": Code(
        "Settings that do not fit each other",
        "Each value is fine alone; together they have no meaning. The message says why and what to change.",
    ),
}
