"""What was measured: a line each while it runs, then the table, JSON, a plot, and the guard against regressions."""

import json
import os
import statistics


class Report:
    def __init__(self):
        self.rows = []

    def row(self, what, unit, runs, figure=None, target=None, guard=False):
        """One line of the table.

        `runs` has the figures of each server, in turns; `figure` is what the target, such as "<= 0.5", is about:
        millpond's median where nothing else is said. `guard`: it is a ratio that the machine's speed leaves alone.
        """
        figures = {name: spread(found) for name, found in runs.items() if found}
        if figure is None and "millpond" in figures:
            figure = figures["millpond"]["median"]
        holds = None if target is None else figure is not None and meets(figure, target)
        self.rows.append({"what": what, "unit": unit, "figures": figures, "figure": figure, "target": target, "holds": holds, "guard": guard})
        said = ", ".join(f"{name} {short(found['median'])}" for name, found in figures.items())
        verdict = "" if target is None else f"   {short(figure)} {'holds' if holds else 'MISSED'}: {target}"
        print(f"  {what}, {unit}: {said}{verdict}", flush=True)

    def failed(self, what, name, why):
        print(f"  {what}: {name}: {why}", flush=True)

    def all_hold(self):
        return all(row["holds"] is not False for row in self.rows)

    def write(self, directory):
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "results.json"), "w", encoding="utf-8") as file:
            json.dump(self.rows, file, indent=1)
        with open(os.path.join(directory, "results.svg"), "w", encoding="utf-8") as file:
            file.write(plot(self.rows))
        with open(os.path.join(directory, "results.md"), "w", encoding="utf-8") as file:
            file.write(table(self.rows))


def spread(found):
    return {"median": statistics.median(found), "least": min(found), "most": max(found), "runs": len(found)}


def paired(runs, name, other):
    """The median of the ratios of runs that followed each other."""
    return statistics.median(a / b for a, b in zip(runs[name], runs[other]))


def meets(figure, target):
    relation, limit = target.split()
    return figure >= float(limit) if relation == ">=" else figure <= float(limit)


def short(number):
    if number is None:
        return "none"
    if number and abs(number) < 0.1:
        return f"{number:.4f}"
    return f"{number:.3f}" if abs(number) < 10 else f"{number:.1f}" if abs(number) < 1000 else f"{number:,.0f}"


COLUMNS = ["millpond", "nginx", "nginx no sendfile", "nginx slice", "Varnish", "direct"]


def table(rows):
    """Markdown: medians, with the least and most of several runs."""
    lines = ["| what | unit | " + " | ".join(COLUMNS) + " | figure | target |  |", "|---" * (len(COLUMNS) + 5) + "|"]
    for row in rows:
        cells = []
        for name in COLUMNS:
            found = row["figures"].get(name)
            if not found:
                cells.append("")
            elif found["runs"] == 1 or short(found["least"]) == short(found["most"]):
                cells.append(short(found["median"]))
            else:
                cells.append(f"{short(found['median'])} ({short(found['least'])}–{short(found['most'])})")
        relation = (row["target"] or "").replace(">=", "≥").replace("<=", "≤")
        verdict = {True: "met", False: "**missed**", None: ""}[row["holds"]]
        figure = short(row["figure"]) if row["target"] else ""
        lines.append(f"| {row['what']} | {row['unit']} | " + " | ".join(cells) + f" | {figure} | {relation} | {verdict} |")
    return "\n".join(lines) + "\n"


COLOURS = {"millpond": "#1b6ca8", "nginx": "#7fb069", "nginx no sendfile": "#b7d3a0", "nginx slice": "#4b7a3c", "Varnish": "#d4a373", "direct": "#bbbbbb"}


def plot(rows):
    """Bars, each row on a scale of its own that ends at its greatest median."""
    shown = [row for row in rows if len(row["figures"]) > 1]
    left, width, bar, gap = 330, 420, 11, 16
    parts, y = [], 40
    for name, x in zip(COLUMNS, range(20, 20 + 130 * len(COLUMNS), 130)):
        parts.append(f'<rect x="{x}" y="10" width="10" height="10" fill="{COLOURS[name]}"/><text x="{x + 14}" y="19">{name}</text>')
    for row in shown:
        most = max(found["median"] for found in row["figures"].values()) or 1
        parts.append(f'<text x="{left - 8}" y="{y + 9}" text-anchor="end">{row["what"]}, {row["unit"]}</text>')
        for name in COLUMNS:
            found = row["figures"].get(name)
            if found:
                length = max(1, width * found["median"] / most)
                parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{COLOURS[name]}"/>'
                             f'<text x="{left + length + 4:.1f}" y="{y + 8}" font-size="9">{short(found["median"])}</text>')
                y += bar
        y += gap
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{y}" font-family="sans-serif" font-size="11">'
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
