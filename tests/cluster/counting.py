"""A workflow whose stages count, so that one sees whether they were done again or went on."""

from __future__ import annotations

COUNT = (
    "import sys, time, pathlib; out, work, n = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]); "
    "f = work / 'n'; k = int(f.read_text()) if f.exists() else 0; (work / 'starts').open('a').write('x')\\n"
    "while k < n:\\n"
    "    time.sleep(0.1); k += 1; t = work / 't'; t.write_text(str(k)); t.replace(f)\\n"
    "print('counted to', k); (out / 'r').write_text(str(k))"
)
"""Counts to `n` in its work folder, ten steps a second, and goes on where it was."""
HEAD = """
dpsim: 1
name: jobs
profiles:
  c:
    executor: dpdispatcher
    machine: {{batch_type: {batch_type}, context_type: LazyLocal}}
    poll: {poll}
    {extra}
stages:
"""


def count(steps: int, **keys: str) -> str:
    """Return a stage that counts, ten steps a second."""
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    words = f'"{{python}}", -c, "{COUNT}", "{{out}}", "{{work}}", "{steps}"'
    return f"{{uses: command, run: [{words}], outputs: [r]{more}}}"


def workflow(stages: str, batch_type: str, poll: str, extra: str = "") -> str:
    """Return a workflow with a profile ``c``, whose stages are jobs."""
    return HEAD.format(batch_type=batch_type, poll=poll, extra=extra) + stages
