"""The report as one HTML page: tables and plots from results alone, nothing fetched, nothing run in the browser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from tests.report.plan import CASES, RULES
from tests.report.promises import PROMISES, Figure, Parts, Tests

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#1b1b1b;background:#fff}
table{border-collapse:collapse;width:100%;margin:.6em 0 1.6em}
td,th{border-bottom:1px solid #ddd;padding:.25em .6em;text-align:left;vertical-align:top}
th{background:#f4f4f4}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.ok{color:#176b2c}.bad{color:#b00020;font-weight:600}.none{color:#8a5a00;font-weight:600}summary{cursor:pointer}small{color:#555}
svg{max-width:100%;height:auto;margin:.4em 0 1.4em}h2{margin-top:2em}
"""
ROW, LEFT, WIDTH = 20, 330, 900
SLOWEST = 20


def page(parts: Parts, tests: Tests, commit: str, made_at: str) -> str:
    """`parts`: of `make bench`, by name; `tests`: by node id, as `keeping` writes them."""
    outcomes = Counter(one["outcome"] for one in tests.values())
    counted = ", ".join(f"{outcomes[name]} {name}" for name in ("passed", "failed", "skipped"))
    body = [
        "<h1>Xacbe: what was measured and what is tested</h1>",
        f"<p>{_e(made_at)}, commit {_e(commit)}. Tests: {counted if tests else _missing('no results: run make test')}."
        f" Benchmarks: {_e(', '.join(sorted(parts))) if parts else _missing('none: run make bench')}.</p>",
        "<h2>Promise → figure</h2>",
        *(_promise(promise.text, promise.part, _figures(promise, parts, tests), parts) for promise in PROMISES),
        "<h2>Rule → tests</h2>",
        _held(RULES, "rules", tests),
        "<h2>Case → tests</h2>",
        _held(CASES, "cases", tests),
        "<h2>Slowest tests</h2>",
        _slowest(tests),
    ]
    head = f'<meta charset="utf-8"><title>Xacbe: report</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _figures(promise: Any, parts: Parts, tests: Tests) -> list[Figure]:
    """Nothing where the part was not run, or was run by an older bench that wrote something else."""
    try:
        return list(promise.figures(parts, tests))
    except (KeyError, TypeError, IndexError):
        return []


def _promise(text: str, part: str, figures: Sequence[Figure], parts: Parts) -> str:
    said = f"<h3>{_e(text)}</h3>"
    if not figures:
        how = f"run make bench ARGS={part}" if part else "run the tests that measure it"
        return said + f"<p>{_missing(f'missing: {how}')}</p>"
    if part:
        one = parts[part]
        said += f"<p><small>load average {one.get('load_average', 0):.1f} at the end of {one.get('seconds', 0)} s</small></p>"
    return said + bars(figures)


def bars(figures: Sequence[Figure]) -> str:
    """One bar for each figure, a mark where it should end, in one scale."""
    highest = max([each.value or 0 for each in figures] + [each.wanted or 0 for each in figures]) or 1.0
    scale, lines = (WIDTH - LEFT - 150) / highest, []
    for row, each in enumerate(figures):
        y, colour = row * ROW, {True: "#2f8f4e", False: "#c62839", None: "#999"}[each.holds]
        lines.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end" font-size="12">{_e(each.label)}</text>')
        length = (each.value or 0) * scale
        lines.append(f'<rect x="{LEFT}" y="{y + 4}" width="{length:.1f}" height="{ROW - 8}" fill="{colour}"/>')
        shown = "missing" if each.value is None else f"{each.value:,.4g} {each.unit}"
        bound = "" if each.wanted is None else f" ({'at least' if each.at_least else 'at most'} {each.wanted:,.4g})"
        end = max(length, (each.wanted or 0) * scale)
        lines.append(f'<text x="{LEFT + end + 8:.1f}" y="{y + 14}" font-size="12">{_e(shown + bound)}</text>')
        if each.wanted is not None:
            at = LEFT + each.wanted * scale
            lines.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y + 1}" y2="{y + ROW - 1}" stroke="#000" stroke-width="2"/>')
    height = len(figures) * ROW + 4
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">{"".join(lines)}</svg>'


def _held(known: dict[str, str], kind: str, tests: Tests) -> str:
    """Every rule or case of the plan, and those that tests name beyond it."""
    holding: dict[str, list[str]] = {}
    for name, one in tests.items():
        for which in one[kind]:
            holding.setdefault(which, []).append(name)
    rows = []
    for which in [*known, *sorted(set(holding) - known.keys())]:
        names = sorted(name for held, found in holding.items() if held == which or held.startswith(which + ".") for name in found)
        rows.append(f"<tr><td>{_e(which)}</td><td>{_e(known.get(which, ''))}</td><td>{_tests(names, tests)}</td></tr>")
    return f"<table><tr><th>{kind[:-1]}</th><th></th><th>tests</th></tr>{''.join(rows)}</table>"


def _tests(names: Iterable[str], tests: Tests) -> str:
    names = list(names)
    if not names:
        return _missing("no test")
    outcomes = Counter(tests[name]["outcome"] for name in names)
    colour = "bad" if outcomes["failed"] else "ok" if outcomes["passed"] else "none"
    summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    listed = "".join(
        f"<li>{_e(name)}{'' if tests[name]['outcome'] == 'passed' else ': ' + _e(tests[name]['outcome'])}</li>" for name in names
    )
    return f'<details><summary class="{colour}">{_e(summary)}</summary><ul>{listed}</ul></details>'


def _slowest(tests: Tests) -> str:
    slow = sorted(tests.items(), key=lambda item: -item[1]["seconds"])[:SLOWEST]
    if not slow:
        return f"<p>{_missing('no results')}</p>"
    whole = sum(one["seconds"] for one in tests.values())
    figures = [Figure(name.rpartition("::")[2][:52], one["seconds"], None, "s") for name, one in slow]
    return f"<p>{whole:,.0f} s in all.</p>{bars(figures)}"


def _missing(text: str) -> str:
    return f'<span class="none">{_e(text)}</span>'


def _e(text: str) -> str:
    return escape(text)
