import pytest
import torch

from fedloge.data import FederatedDataModule
from fedloge.errors import ConfigError
from fedloge.federation.settings import check_precision, notes, refuse_idle
from fedloge.methods import CReFF, FedAvg, FedAvgFT, FedBABU, FedETF, FedLoGe, FedRep, FedROD, FedYoYo, RatioLoss
from fedloge.models import SmallCNN
from fedloge.trainer import FederatedTrainer

IDLE = [
    (FedETF, {"finetune_epochs": 9}, "model.finetune_epochs=9 has no effect with model.pm=none"),
    (FedETF, {"finetune_cycles": 9}, "model.finetune_cycles=9 has no effect with model.pm=none"),
    (FedETF, {"loss": "dr", "count_floor": 0}, "model.count_floor=0 has no effect with model.loss=dr"),
    (FedROD, {"balanced": False, "count_floor": 1}, "model.count_floor=1 has no effect with model.balanced=False"),
    (FedYoYo, {"lam": 0.0, "ramp": 9}, "model.ramp=9 has no effect with model.lam=0"),
    (FedYoYo, {"strength": 0.0, "rho": 0.5}, "model.rho=0.5 has no effect with model.strength=0"),
    (RatioLoss, {"beta": 0.0, "refresh_every": 2}, "model.refresh_every=2 has no effect with model.beta=0"),
    (CReFF, {"match_steps": 0, "match_lr": 1.0}, "model.match_lr=1.0 has no effect with model.match_steps=0"),
    (FedAvgFT, {"finetune_epochs": 0, "finetune_part": "full"}, "model.finetune_part='full' has no effect"),
    (FedBABU, {"finetune_epochs": 0, "finetune_lr": 0.1}, "model.finetune_lr=0.1 has no effect"),
    (FedLoGe, {"classifier_rescale": True}, "model.classifier_rescale=True has no effect with model.classifier=sse_c"),
    (FedLoGe, {"classifier": "xavier", "sse_solver": "adam"}, "model.sse_solver='adam' has no effect"),
    (FedLoGe, {"ga": False, "ga_scale": 1.0}, "model.ga_scale=1.0 has no effect with model.ga=False"),
    (FedLoGe, {"la": False, "la_source": "unit"}, "model.la_source='unit' has no effect with model.la=False"),
    (FedLoGe, {"finetune_lr": 0.1}, "model.finetune_lr=0.1 has no effect with model.finetune_epochs=0"),
    (FedLoGe, {"pm_rule": "phi+psi", "finetune_epochs": 1}, "model.finetune_epochs=1 has no effect"),
]


def build(kind, **options):
    return kind(SmallCNN((6,), in_channels=1), 3, **options)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return FederatedTrainer(1, 1, accelerator="cpu", run_dir=str(tmp_path_factory.mktemp("settings") / "run"))


@pytest.mark.parametrize(("kind", "options", "message"), IDLE)
def test_an_option_of_a_method_that_does_nothing_is_refused(kind, options, message, trainer, make_data):
    with pytest.raises(ConfigError) as error:
        refuse_idle(trainer, build(kind, **options), make_data())
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("kind", sorted({kind for kind, _, _ in IDLE}, key=lambda kind: kind.__name__))
def test_every_idle_option_exists(kind, trainer, make_data):
    refuse_idle(trainer, build(kind), make_data())
    for (option, _), names in kind.idle.items():
        assert all(hasattr(build(kind), name) for name in (option, *names))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "iid", "alpha": 0.1}, "data.alpha=0.1 has no effect with data.scheme=iid"),
        ({"scheme": "natural", "min_samples": 3}, "data.min_samples=3 has no effect with data.scheme=natural"),
        ({"scheme": "dirichlet_paper", "min_samples": 3}, "data.min_samples=3 has no effect"),
        ({"imbalance_factor": None, "profile": "step"}, "data.profile='step' has no effect with data.imbalance_factor"),
    ],
)
def test_an_option_of_the_data_that_does_nothing_is_refused(options, message, trainer, make_data):
    with pytest.raises(ConfigError) as error:
        refuse_idle(trainer, build(FedAvg), make_data(**{"alpha": 0.5, **options}))
    assert str(error.value).startswith(message)


def test_a_saved_partition_refuses_what_it_replaces(tmp_path, trainer, make_data):
    made = make_data(alpha=0.3)
    made.setup()
    made.partition.save(tmp_path / "partition.json")
    saved = {"partition_file": str(tmp_path / "partition.json"), "num_clients": 2}
    refuse_idle(trainer, build(FedAvg), make_data(**saved, alpha=0.3))
    refuse_idle(trainer, build(FedAvg), FederatedDataModule(made.source, **saved))
    for name, value, was in (("alpha", 0.7, "0.3"), ("scheme", "iid", "'dirichlet'"), ("imbalance_factor", 9.0, "4")):
        with pytest.raises(ConfigError, match=rf"data\.{name}={value!r} but data\.partition_file=.* with {was}"):
            refuse_idle(trainer, build(FedAvg), make_data(**saved | {"alpha": 0.5, name: value}))


def test_an_option_of_the_trainer_that_does_nothing_is_refused(tmp_path, make_data):
    with pytest.raises(ConfigError, match=r"min_clients=0\.9 has no effect with trainer\.on_client_failure=abort"):
        refuse_idle(FederatedTrainer(on_client_failure="abort", min_clients=0.9), build(FedAvg), make_data())

    class Generic(FedAvg):
        views = ("global",)

    with pytest.raises(ConfigError, match=r"mask_absent='train' has no effect with Generic, which has no personal"):
        refuse_idle(FederatedTrainer(mask_absent="train"), build(Generic), make_data())


@pytest.mark.skipif(torch.cuda.is_available(), reason="16-mixed is possible on a GPU")
def test_a_precision_that_would_be_replaced_is_refused(tmp_path, make_data):
    trainer = FederatedTrainer(1, 1, accelerator="cpu", precision="16-mixed", run_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"precision='16-mixed' is not possible on this device.* take bf16-mixed"):
        trainer.fit(build(FedAvg), datamodule=make_data())
    assert not (tmp_path / "run").exists()
    check_precision(32, "32-true")
    check_precision("bf16-mixed", "bf16-mixed")


def test_validation_data_are_refused(trainer, make_data):
    with pytest.raises(ConfigError, match="val_dataloaders='list' is not used"):
        trainer.fit(build(FedAvg), val_dataloaders=[], datamodule=make_data())


def test_what_is_shared_and_not_used_is_named(trainer, make_data):
    data = make_data(auxiliary=2)
    assert list(notes(trainer, build(RatioLoss), data)) == []
    assert list(notes(trainer, build(FedRep, head_epochs=3), data)) == [
        "data.auxiliary=2 is not used: FedRep's server holds no images.",
        "trainer.local_epochs=1 is not used: FedRep trains 3 + 5 epochs in a round.",
    ]
