"""The answer as one self-contained HTML page: the sentences, one picture of value against cost, the table, the
commands."""

from __future__ import annotations

from pathlib import Path

from src.advise.answer import Answer
from src.advise.sentences import notes, rivals_table, schedule_sentence, schedule_table, sentences, table
from src.io import write_atomically
from src.report.page import page_environment
from src.report.plots import Plot, line_styles, panel, save_plot
from src.report.tables import page_table

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "advice.html"


def write_page(folder: Path, answer: Answer, *, name: str, data: str, command: str, question: str) -> list[Path]:
    """Writes ``advice.html`` and its plot as PNG into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    plot, plan = cost_plot(answer, folder), answer.schedule
    titles = {"decided": answer.choice.label, "close": f"{answer.choice.label} will do", "thin": "Not certain yet"}
    template = page_environment(TEMPLATES).get_template(f"{PAGE}.j2")
    html = template.render(
        title=titles[answer.decision.kind],
        name=name,
        data=data,
        served=answer.question.served,
        sentences=sentences(answer),
        plot=plot,
        candidates=page_table(table(answer)),
        notes=notes(answer),
        arrivals=plan and schedule_sentence(plan),
        schedule=plan and [page_table(schedule_table(answer, plan)), page_table(rivals_table(plan))],
        command=command,
        question=question,
    )
    write_atomically(folder / PAGE, html.encode())
    return [folder / PAGE, folder / plot.file]


def cost_plot(answer: Answer, folder: Path) -> Plot:
    """Predicted value against cost at full size, with 90 % intervals; the choice is ringed."""
    money = bool(answer.question.price.hour)
    metric = answer.question.metric.replace("_", " ")
    unit = "" if answer.question.is_error else ", %"
    x = "price of one training at full size" if money else "cost of one training at full size, seconds"
    ax = panel("", x, f"{metric} on {answer.question.served}{unit}", size=(7.6, 4.4))
    styles = line_styles([one.label for one in answer.candidates])
    costs = [one.cost.money if money else one.cost.seconds for one in answer.candidates]
    apart = 0.015 * (max(costs) - min(costs) or max(costs))
    for k, one in enumerate(answer.candidates):
        n_near = sum(abs(costs[k] - other) < apart for other in costs[:k])
        at, style = costs[k] + apart * n_near, styles[one.label]  # side by side, where bars would hide each other
        value = [[max(0.0, one.predicted - one.low)], [max(0.0, one.high - one.predicted)]]
        ax.errorbar([at], [one.predicted], value, color=style.ink, marker=style.marker, capsize=3, label=one.label)
        if one is answer.choice:
            ax.plot([at], [one.predicted], marker="o", markersize=16, fillstyle="none", color="#1d1d1f", linestyle="")
    if len({one.cost.seconds for one in answer.candidates}) > 1:
        ax.margins(x=0.1)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    listed = "; ".join(f"{one.label} {one.predicted:.4g} [{one.low:.4g}, {one.high:.4g}]" for one in answer.candidates)
    return save_plot(ax, folder, "advice", f"{metric} against cost: {listed}")
