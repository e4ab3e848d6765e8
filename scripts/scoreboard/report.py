"""Figures: a line each while the benchmark runs, then the table, JSON, a plot, and the guard against regressions."""

import json
import math
import os
import statistics


# Where a row names no figure.
MEDIAN = object()

# A row beside the program before may be this share of it.
LEAST_OF_BEFORE = 0.97


class Report:
    def __init__(self):
        self.rows = []

    def row(self, what, unit, runs, figure=MEDIAN, target=None, guard=False, more=False):
        """One line of the table.

        `runs` has for each server a figure for each turn; `figure` is what the target, such as "<= 0.5", is about: the
        median of the program under test where nothing else is said, and `None` where it could not be measured. `guard`: it is a ratio that the machine's speed
        leaves alone. `more`: more is better; of costs and times less is.
        """
        figures = {name: spread(list(found.values())) for name, found in runs.items() if found}
        ours = ours_in(runs)
        if figure is MEDIAN:
            figure = figures[ours]["median"] if target is not None and ours in figures else None
        holds = None if target is None else figure is not None and meets(figure, target)
        over = paired(runs, ours, "before")
        self.rows.append({"what": what, "unit": unit, "figures": figures, "figure": figure, "target": target, "holds": holds,
                          "guard": guard, "over before": over, "more is better": more})
        said = ", ".join(f"{name} {short(found['median'])}" for name, found in figures.items())
        verdict = "" if figure is None and target is None else f"   {short(figure)}"
        verdict += "" if target is None else f" {'holds' if holds else 'MISSED'}: {target}"
        verdict += "" if over is None else f"   {short(over)} of before"
        print(f"  {what}, {unit}: {said}{verdict}", flush=True)

    def failed(self, what, name, why):
        print(f"  {what}: {name}: {why}", flush=True)

    def all_hold(self):
        return all(row["holds"] is not False for row in self.rows)

    def worse_than_before(self):
        """The rows in which the program is worse than the one before by more than is allowed, with the share."""
        shares = [(share_of_before(row), row) for row in self.rows]
        return [(share, row) for share, row in shares if share is not None and share < LEAST_OF_BEFORE]

    def print_before(self):
        compared = sum(row["over before"] is not None for row in self.rows)
        worse = self.worse_than_before()
        print(f"beside the program before: {compared} rows, {len(worse)} of them below {LEAST_OF_BEFORE} of it (costs and times: the inverse)", flush=True)
        for share, row in worse:
            print(f"  {short(share)}  {row['what']}, {row['unit']}", flush=True)

    def write(self, directory):
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "results.json"), "w", encoding="utf-8") as file:
            json.dump(self.rows, file, indent=1)
        with open(os.path.join(directory, "results.svg"), "w", encoding="utf-8") as file:
            file.write(plot(self.rows))
        with open(os.path.join(directory, "results.md"), "w", encoding="utf-8") as file:
            file.write(table(self.rows))
            file.writelines(f"\n{short(share)} of before: {row['what']}, {row['unit']}\n" for share, row in self.worse_than_before())


def ours_in(runs):
    """The program under test among those that were measured: as a cache, or as an origin."""
    return "origin" if "origin" in runs else "millpond"


def share_of_before(row):
    """How good a row is beside the program before, where 1 is as good; `None` where that was not measured."""
    over = row["over before"]
    if over is None or row["more is better"]:
        return over
    return 1 / over if over else float("inf")


def of(seen, key):
    """One figure of each measurement, for each server and turn."""
    return {name: {turn: found[key] for turn, found in runs.items()} for name, runs in seen.items()}


def spread(found):
    return {"median": statistics.median(found), "least": min(found), "most": max(found), "runs": len(found)}


def paired(runs, name, other):
    """The median of the ratios of the turns that both have; `None` where there are none, or none over a figure that is not 0."""
    a, b = runs.get(name, {}), runs.get(other, {})
    ratios = [1.0 if a[turn] == b[turn] else a[turn] / b[turn] for turn in a.keys() & b.keys() if b[turn] or a[turn] == b[turn]]
    return statistics.median(ratios) if ratios else None


def differences(runs, name, other):
    """The median of the differences of the turns that both have, or `None`."""
    a, b = runs.get(name, {}), runs.get(other, {})
    found = [a[turn] - b[turn] for turn in a.keys() & b.keys()]
    return statistics.median(found) if found else None


def quantile(figures, share):
    """The least figure that this share of them does not exceed."""
    return sorted(figures)[max(0, math.ceil(len(figures) * share) - 1)]


def meets(figure, target):
    relation, limit = target.split()
    return figure >= float(limit) if relation == ">=" else figure <= float(limit)


def short(number):
    if number is None:
        return "none"
    if number and abs(number) < 0.1:
        return f"{number:.4f}"
    return f"{number:.3f}" if abs(number) < 10 else f"{number:.1f}" if abs(number) < 1000 else f"{number:,.0f}"


COLUMNS = ["millpond", "origin", "before", "nginx", "nginx no sendfile", "nginx slice", "Varnish", "direct"]


def columns(rows):
    """The servers that have a figure anywhere."""
    return [name for name in COLUMNS if any(name in row["figures"] for row in rows)]


def table(rows):
    """Markdown: medians, with the least and most of several runs."""
    shown = columns(rows)
    has_before = "before" in shown
    heads = ["what", "unit", *shown, *(["new/before"] if has_before else []), "figure", "target", " "]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = []
        for name in shown:
            found = row["figures"].get(name)
            if not found:
                cells.append("")
            elif found["runs"] == 1 or short(found["least"]) == short(found["most"]):
                cells.append(short(found["median"]))
            else:
                cells.append(f"{short(found['median'])} ({short(found['least'])}–{short(found['most'])})")
        if has_before:
            cells.append("" if row["over before"] is None else short(row["over before"]))
        relation = (row["target"] or "").replace(">=", "≥").replace("<=", "≤")
        verdict = {True: "met", False: "**missed**", None: ""}[row["holds"]]
        figure = "" if row["figure"] is None and row["target"] is None else short(row["figure"])
        lines.append(f"| {row['what']} | {row['unit']} | " + " | ".join(cells) + f" | {figure} | {relation} | {verdict} |")
    return "\n".join(lines) + "\n"


COLOURS = {"millpond": "#1b6ca8", "origin": "#1b6ca8", "before": "#8fb8d8", "nginx": "#7fb069", "nginx no sendfile": "#b7d3a0", "nginx slice": "#4b7a3c", "Varnish": "#d4a373", "direct": "#bbbbbb"}


def plot(rows):
    """Bars, each row on a scale of its own that ends at its greatest median."""
    shown = [row for row in rows if len(row["figures"]) > 1]
    names = columns(shown)
    left, width, bar, gap = 330, 420, 11, 16
    parts, y = [], 40
    for name, x in zip(names, range(20, 20 + 130 * len(names), 130)):
        parts.append(f'<rect x="{x}" y="10" width="10" height="10" fill="{COLOURS[name]}"/><text x="{x + 14}" y="19">{name}</text>')
    for row in shown:
        most = max(found["median"] for found in row["figures"].values()) or 1
        parts.append(f'<text x="{left - 8}" y="{y + 9}" text-anchor="end">{row["what"]}, {row["unit"]}</text>')
        for name in names:
            found = row["figures"].get(name)
            if found:
                length = max(1, width * found["median"] / most)
                parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{COLOURS[name]}"/>'
                             f'<text x="{left + length + 4:.1f}" y="{y + 8}" font-size="9">{short(found["median"])}</text>')
                y += bar
        y += gap
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(left + width + 90, 20 + 130 * len(names))}" height="{y}" font-family="sans-serif" font-size="11">'
            f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n')


# --- the guard ---------------------------------------------------------------------------------------------------

ALLOWED = 0.20


def guarded(rows):
    """The ratios, and whether more of them is better."""
    return {row["what"] + ", " + row["unit"]: (row["figure"], row["target"].startswith(">=")) for row in rows if row["guard"] and row["figure"] is not None}


def compare(rows, path):
    """Whether no figure is more than 20 % worse than what was stored."""
    with open(path, encoding="utf-8") as file:
        baseline = json.load(file)
    good = True
    for what, (figure, more_is_better) in guarded(rows).items():
        known = baseline.get(what)
        if known is None:
            print(f"  no baseline: {what}; scripts/bench --quick --record stores one")
            good = False
            continue
        worse = (known / figure if figure else float("inf")) if more_is_better else (figure / known if known else 1.0)
        holds = worse <= 1 + ALLOWED
        good &= holds
        print(f"  {'holds ' if holds else 'WORSE '}  {what}: {short(figure)}, stored {short(known)}")
    for what in baseline.keys() - guarded(rows).keys():
        print(f"  WORSE   {what}: not measured")
        good = False
    return good


def record(rows, path):
    with open(path, "w", encoding="utf-8") as file:
        json.dump({what: round(figure, 4) for what, (figure, _) in guarded(rows).items()}, file, indent=1)
        file.write("\n")
