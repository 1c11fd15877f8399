"""The answer in words: three sentences, a table, and remarks."""

from __future__ import annotations

from src.advise.answer import Advised, Answer
from src.advise.arrivals import NOTHING, Schedule
from src.comparison.text_table import TextTable
from src.comparison.units import unit_of
from src.progress import duration

WORDS = {
    "d1_only": "Keep the model of Dataset 1 and do not train on Dataset 2",
    "combined": "Train a fresh model on both data sets together",
    "sequential": "Continue the model of Dataset 1 on Dataset 2 alone",
    "replay": "Continue the model of Dataset 1 on Dataset 2, with samples of Dataset 1 mixed in",
    "warm_start": "Continue the model of Dataset 1 on both data sets together",
    "shrink_perturb": "Shrink and perturb the weights of the model of Dataset 1, then train on both data sets",
    "freeze": "Continue the model of Dataset 1 on Dataset 2, its last layer alone",
}
"""The default candidates as instructions."""


def instruction(label: str) -> str:
    """A candidate as an instruction, with its label."""
    words = WORDS.get(label.partition("(")[0])
    return f"{words} ({label})" if words else f"Train with the regime {label}"


def number(answer: Answer, value: float) -> str:
    """A value of the metric with its unit."""
    return f"{value:.4g}" if answer.question.is_error else f"{value:.1f} %"


def interval(answer: Answer, one: Advised) -> str:
    digits = ".4g" if answer.question.is_error else ".1f"
    return f"[{one.low + 0.0:{digits}}, {one.high + 0.0:{digits}}]"  # + 0.0: a loss of -0 is 0


def points(answer: Answer, value: float) -> str:
    unit = unit_of(answer.question.metric).of_differences
    return f"{value:.3g} {unit}".strip() if answer.question.is_error else f"{value:.1f} points"


def price(answer: Answer, seconds: float, money: float) -> str:
    return f"{_time(seconds)}{f' (price {_amount(money)})' if answer.question.price.hour else ''}"


def _time(seconds: float) -> str:
    return duration(seconds) if round(seconds) or not seconds else "under 1 s"


def _amount(value: float) -> str:
    """A number of two digits or more, without an exponent: 0.0030, 4.1, 1,234."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def sentences(answer: Answer) -> list[str]:
    """What to do, what it brings, what it costs."""
    choice, second, question = answer.choice, answer.second, answer.question
    kind, settle = answer.decision.kind, ""
    loss = points(answer, choice.regret / (question.value.point or 1.0))
    worse = [answer.candidates[k].label for k in answer.decision.ruled_out]
    ruled_out = f"{', '.join(worse)} {'is' if len(worse) == 1 else 'are'} ruled out (90 %); " if worse else ""
    if kind == "decided":
        first = f"{instruction(choice.label)}."
    elif kind == "close":
        first = (
            f"{instruction(choice.label)}; {ruled_out}{second.label} may be as good, but by this choice you lose "
            f"{loss} or less on average."
        )
    else:
        words = instruction(choice.label)
        first = (
            f"Not certain yet: {second.label} or another candidate may be better than {choice.label}, and choosing now "
            f"loses {loss} on average; {ruled_out}if you must, {words[0].lower()}{words[1:]}."
        )
        if (runs := answer.next_runs) is not None:
            n, cost = len(runs.candidates) * len(runs.seeds), price(answer, runs.seconds, runs.money)
            settle = f" {n} more runs, in about {cost}, would narrow it: add go=true."
    gain = ""
    nothing = next((one for one in answer.candidates if one.label == "d1_only"), None)
    if nothing is not None and nothing is not choice:
        change = (choice.predicted - nothing.predicted) * (-1 if question.is_error else 1)
        gain = f", {points(answer, abs(change))} {'better' if change >= 0 else 'worse'} than doing nothing"
    article = "an" if question.metric[0] in "ae" else "a"
    brings = (
        f"On {question.served} it is expected to reach {article} {question.metric.replace('_', ' ')} of "
        f"{number(answer, choice.predicted)} (90 % interval {interval(answer, choice)}){gain}; the probability that it "
        f"is the best of {len(answer.candidates)} candidates is {100 * choice.p_best:.0f} %."
    )
    retrain = next((one for one in answer.candidates if one.label == "combined"), None)
    paid = "" if question.checkpoint is None else ", the model of Dataset 1 being paid for"
    against = ""
    if retrain is not None and retrain is not choice and retrain.cost.updates:
        against = f", {100 * choice.cost.seconds / retrain.cost.seconds:.0f} % of training from scratch on everything"
    costs = f"It costs {price(answer, choice.cost.seconds, choice.cost.money)} on this machine{paid}{against}.{settle}"
    return [first, brings, costs]


def table(answer: Answer) -> TextTable:
    """A row for each candidate, best first."""
    money = bool(answer.question.price.hour)
    heads = ["candidate", "pilot", "predicted", "90 % interval", "updates", "FLOPs", "time", *["price"] * money]
    heads += ["again", "P(best)", "regret", *["net value"] * (answer.question.value.point is not None)]
    rows = []
    for one in answer.candidates:
        row = [one.label, number(answer, one.now), number(answer, one.predicted), interval(answer, one)]
        row += [f"{one.cost.updates:,.0f}", f"{one.cost.flops:.2g}", _time(one.cost.seconds)]
        row += [_amount(one.cost.money)] * money
        again = [_time(one.again.seconds), *[_amount(one.again.money)] * money]
        row += [" / ".join(again), f"{100 * one.p_best:.0f} %", _amount(one.regret)]
        row += [f"{one.net:,.4g}"] if one.net is not None else []
        rows.append(tuple(row))
    return TextTable(heads=tuple(heads), rows=tuple(rows), align="l" + "r" * (len(heads) - 1))


def notes(answer: Answer) -> list[str]:
    """What the table's columns are, and what limits the answer."""
    sizes = sorted({one.now_size for one in answer.candidates})
    full = sum(answer.sizes)
    question = answer.question
    again = "time / price" if question.price.hour else "time"
    currency = ", in the currency of price.hour like price and net value"
    unit = f", in {unit_of(question.metric).of_differences or question.metric}"
    regret = f"regret: expected distance from the best{unit if question.value.point is None else currency}"
    largest = " or ".join(f"{size:,}" for size in sizes)
    lines = [
        f"pilot: measured on {largest} of {full:,} training samples; predicted: at {full:,}, mean over seeds; "
        f"again: {again} once the model of Dataset 1 exists; {regret}",
        f"the pilot's training is {100 * answer.share:.1f} % of training all candidates in full on 10 seeds; "
        f"{1000 * answer.seconds_per_update:.2g} ms an update here",
    ]
    lines += [f"{label} is left out: {why}" for label, why in answer.left_out.items()]
    return lines + list(answer.remarks)


def schedule_sentence(plan: Schedule) -> str:
    """What to do at each arrival, and what that is worth against one rule for all."""
    steps = ", ".join(f"{step.action} ({step.batch:,} samples)" for step in plan.steps)
    policy = {step.action for step in plan.steps}
    leads = [
        f"{rival.lead:,.3g} [{rival.low:,.3g}, {rival.high:,.3g}] more than always {rival.action}"
        for rival in plan.rivals
        if rival.action != NOTHING and policy != {rival.action}
    ]
    against = f", {', '.join(leads)}" if leads else ""
    return f"As batches arrive: {steps}; worth {plan.net:,.4g} net of costs{against}."


def schedule_table(answer: Answer, plan: Schedule) -> TextTable:
    """A row for each arrival."""
    rows = []
    for k, step in enumerate(plan.steps, start=1):
        low, high = sorted((abs(step.low), abs(step.high)))  # a loss is predicted with the other sign
        texts = (number(answer, abs(step.value)), f"[{low:.4g}, {high:.4g}]", f"{step.cost:,.3g}")
        rows.append((str(k), f"{step.batch:,}", step.action, *texts))
    heads = ("arrival", "samples", "do", answer.question.metric.replace("_", " "), "90 % interval", "cost")
    return TextTable(heads=heads, rows=tuple(rows), align="rrlrrr")


def rivals_table(plan: Schedule) -> TextTable:
    """A row for each rule that does the same at every arrival."""
    rows = [
        (f"always {rival.action}", f"{rival.net:,.4g}", f"{rival.lead:,.3g}", f"[{rival.low:,.3g}, {rival.high:,.3g}]")
        for rival in plan.rivals
    ]
    heads = ("rule", "net worth", "the policy is worth more by", "90 % interval")
    return TextTable(heads=heads, rows=(("the policy", f"{plan.net:,.4g}", "", ""), *rows), align="lrrr")
