"""A hundred broken configurations: each is refused in one line that names the key, before anything trains."""

from __future__ import annotations

import shlex

import pytest

from src.cli import MISTAKES, explain
from src.config import compose

# (overrides, the key that the line must name)
WRONG_KEYS = [
    ("split.rato=1", "split.rato"),
    ("splt.ratio=1", "splt.ratio"),
    ("stopping.epoch=5", "stopping.epoch"),
    ("optimizer.learning_rate=0.1", "optimizer.learning_rate"),
    ("arch.width=[64]", "arch.width"),
    ("seedz=3", "seedz"),
    ("regims=[combined]", "regims"),
    ("trainer.device=2", "trainer.device"),
    ("+split.extra=1", "split.extra"),
    ("+extra=1", "extra"),
    ("+optimizer.nesterov=true", "optimizer.nesterov"),
    ("+data.path=x", "data.path"),
    ("split.shift.amont=3", "split.shift.amont"),
    ("data=mnst", "data"),
    ("arch=resnet", "arch"),
    ("stopping=early", "stopping"),
    ("split=skewed", "split"),
    ("optimizer=adagrad", "optimizer"),
    ("trainer=tpu", "trainer"),
    ("tracking=wandb", "tracking"),
    ("regime=finetune", "regime"),
    ("search=hyperband", "search"),
]
WRONG_TYPES = [
    ("split.size=many", "split.size"),
    ("split.size=10.5", "split.size"),
    ("split.size=true", "split.size"),
    ("split.ratio=half", "split.ratio"),
    ("split.ratio=[1,2]", "split.ratio"),
    ("split.sizes=100", "split.sizes"),
    ("split.sizes=[100,some]", "split.sizes"),
    ("split.opposed=maybe", "split.opposed"),
    ("split.imbalance=null", "split.imbalance"),
    ("split.shift=rotate", "split.shift"),
    ("split.shift.kind=spin", "split.shift.kind"),
    ("split.priors=0.5", "split.priors"),
    ("split.classes=zero", "split.classes"),
    ("stopping.epochs=ten", "stopping.epochs"),
    ("stopping.epochs=2.5", "stopping.epochs"),
    ("optimizer.lr=fast", "optimizer.lr"),
    ("optimizer.batch_size=whole", "optimizer.batch_size"),
    ("optimizer.schedule=linear", "optimizer.schedule"),
    ("arch.widths=64", "arch.widths"),
    ("arch.widths=[a]", "arch.widths"),
    ("arch.depth=deep", "arch.depth"),
    ("trainer.devices=all", "trainer.devices"),
    ("trainer.precision=8", "trainer.precision"),
    ("trainer.precision=half", "trainer.precision"),
    ("trainer.deterministic=1", "trainer.deterministic"),
    ("seeds=few", "seeds"),
    ("seeds=[0,0]", "seeds"),
    ("seeds=[a]", "seeds"),
    ("regimes=combined", "regimes"),
    ("regimes=[]", "regimes"),
    ("regimes=[3]", "regimes"),
    ("loss=hinge", "loss"),
    ("n_workers=some", "n_workers"),
    ("dry_run=perhaps", "dry_run"),
    ("sweep=7", "sweep"),
    ("tracking.experiment=null", "tracking.experiment"),
]
WRONG_RANGES = [
    ("split.size=0", "split.size"),
    ("split.size=-5", "split.size"),
    ("split.ratio=0", "split.ratio"),
    ("split.ratio=-1", "split.ratio"),
    ("split.ratio=.inf", "split.ratio"),
    ("split.ratio=nan", "split.ratio"),
    ("split.ratio=1e-6", "split.ratio"),
    ("split.sizes=[0,100]", "split.sizes"),
    ("split.sizes=[100,-1]", "split.sizes"),
    ("split.val=0", "split.val"),
    ("split.val=1", "split.val"),
    ("split.test=1.5", "split.test"),
    ("split.imbalance=0.5", "split.imbalance"),
    ("split.label_noise=1", "split.label_noise"),
    ("split.label_noise=-0.1", "split.label_noise"),
    ("split.parts=1", "split.parts"),
    ("split.shift.amount=-1", "split.shift.amount"),
    ("split.shift.kind=permute split.shift.amount=2", "split.shift.amount"),
    ("split.shift.kind=rotate split.shift.amount=400", "split.shift.amount"),
    ("stopping.epochs=0", "stopping.epochs"),
    ("stopping=early_stopping stopping.patience=0", "stopping.patience"),
    ("stopping=convergence stopping.tolerance=0", "stopping.tolerance"),
    ("stopping=convergence stopping.check_every=0", "stopping.check_every"),
    ("optimizer.lr=0", "optimizer.lr"),
    ("optimizer.lr=-0.1", "optimizer.lr"),
    ("optimizer.momentum=1", "optimizer.momentum"),
    ("optimizer.weight_decay=-1", "optimizer.weight_decay"),
    ("optimizer.batch_size=0", "optimizer.batch_size"),
    ("arch.widths=[0]", "arch.widths"),
    ("arch.widths=[]", "arch.widths"),
    ("arch.depth=0", "arch.depth"),
    ("trainer.devices=0", "trainer.devices"),
    ("trainer.threads=0", "trainer.threads"),
    ("trainer.replicas=0", "trainer.replicas"),
    ("trainer.curve_points=0", "trainer.curve_points"),
    ("seeds=0", "seeds"),
    ("seeds=[-1]", "seeds"),
    ("n_workers=0", "n_workers"),
    ("sweep=a/b", "sweep"),
    ("sweep=.hidden", "sweep"),
]
CONTRADICTIONS = [
    ("split.sizes=[100,100] split.size=200", "split.size"),
    ("split.sizes=[100,100] split.ratio=1", "split.ratio"),
    ("split.sizes=[100,100,100]", "split.sizes"),
    ("split.parts=3 split.ratio=2", "split.ratio"),
    ("split.val=0.5 split.test=0.5", "split.val"),
    ("split.priors=[[0.5,0.4],[0.5,0.5]]", "split.priors"),
    ("split.priors=[[0.5,0.5]]", "split.priors"),
    ("split.priors=[[0.5,0.5],[0.5,0.5]] split.imbalance=2", "split.imbalance"),
    ("split.classes=[0,0]", "split.classes"),
    ("split.classes=[[0,1],[2,3],[4,5]]", "split.classes"),
    ("split.shift.kind=source", "split.shift.source"),
    ("split.shift.source=mnist", "split.shift.source"),
    ("split.shift.amount=30", "split.shift.amount"),
    ("stopping.updates=100", "stopping.updates"),
    ("stopping.patience=3", "stopping.patience"),
    ("stopping=budget", "stopping"),
    ("stopping=budget stopping.epochs=3 stopping.updates=9", "stopping"),
    ("stopping=budget stopping.updates=9 stopping.match=marginal", "stopping.match"),
    ("stopping=budget stopping.updates=9 stopping.match=samples", "stopping.match"),
    ("stopping=budget stopping.epochs=3 stopping.match=marginal split.sizes=[100,0]", "stopping.match"),
    ("stopping=early_stopping stopping.monitor_on=d3", "stopping.monitor_on"),
    ("stopping=early_stopping stopping.monitor_on=d2 split.sizes=[100,0]", "stopping.monitor_on"),
    ("optimizer=adam optimizer.momentum=0.9", "optimizer.momentum"),
    ("data=gaussian", "loss"),
    ("data=gaussian loss=mse stopping=early_stopping stopping.monitor=accuracy", "stopping.monitor"),
    ("trainer=ddp trainer.devices=1", "trainer.devices"),
    ("trainer=cpu trainer.precision=16-mixed", "trainer.precision"),
    ("launcher=slurm launcher.jobs=0", "launcher.jobs"),
    ("launcher=slurm launcher.extra=['--qos=high']", "launcher.extra"),
    ("launcher=slurm launcher.gpus=1 trainer.devices=2", "launcher.gpus"),
    ("launcher.jobs=2", "launcher.jobs"),
    ("trainer.slots=0", "trainer.slots"),
    ("tracking.uri=postgresql://lab:geheim@host/db", "tracking.uri"),
    ("arch.widths=[64,32] arch.depth=2", "arch.depth"),
    ("arch=torchvision arch.model=resnet19", "arch.model"),
    ("regimes=[combined,combined]", "regimes"),
    ("regimes=[fine_tuning]", "regimes"),
    ("regimes=[{sequential:{share:0.1}}]", "regime.sequential.share"),
    ("regimes=[{sequential:{lr_factor:fast}}]", "regime.sequential.lr_factor"),
    ("regimes=[{sequential:3}]", "regime.sequential"),
    ("data=image_folder data.path=x data.channels=2", "data.channels"),
    ("augment=[flip,flip]", "augment"),
    ("augment=[mixup]", "augment"),
]
BROKEN = WRONG_KEYS + WRONG_TYPES + WRONG_RANGES + CONTRADICTIONS


def test_there_are_a_hundred() -> None:
    """The suite keeps its size."""
    assert len({overrides for overrides, _ in BROKEN}) == len(BROKEN) >= 100


@pytest.mark.parametrize(("overrides", "key"), BROKEN)
def test_is_refused_in_one_line_that_names_the_key(overrides: str, key: str) -> None:
    """Composition or parsing refuses it, as a user's mistake, in one line that starts with the key."""
    words = shlex.split(overrides)
    with pytest.raises(MISTAKES) as raised:
        compose(words)
    line = explain(raised.value, words)
    assert "\n" not in line
    assert line.startswith(f"{key}="), line
    assert len(line.split(": ", 1)[1]) > 10, "says what is wrong"
