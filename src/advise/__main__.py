"""Advises which training a model needs now that new data have come."""

from __future__ import annotations

from src import cli

USAGE = """python -m src.advise data=image_folder data.path=OLD data.path2=NEW [key=value ...]

Retrain on everything, fine-tune, mix in old data, or do nothing? Trains the candidates on small nested parts of both
data sets, extrapolates their learning curves to all data, and answers with intervals, costs and the probability of
being right.

serve=union             what the deployed model will see: d1, d2, union, or shares {d1:0.3,d2:0.7}
budget=auto             training that the advice may spend: 10min, 25%
price.hour=2.5          price of an hour of training; value.point=100: worth of a point of accuracy
checkpoint=model.pt     weights of a model that was trained on Dataset 1: that training is paid for
arrivals=[200,400]      batches that will arrive: what to do at each, by their prices
metric=accuracy         the metric; margin=1: the difference that does not matter; go=true: trains on until certain

All settings of a sweep apply: data, arch, split, stopping, optimizer, regimes=[the candidates], seeds, tune
(docs/ADVICE.md)."""

if __name__ == "__main__":
    cli.command_of("src.advise.command", USAGE)
