import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fedloge import collapse
from fedloge.errors import ConfigError


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch):
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callback, epochs=2):
    labels = torch.arange(3).repeat(10)
    features = torch.eye(4)[labels] + 0.1 * torch.randn(30, 4)
    net, data = Net(), DataLoader(TensorDataset(features, labels), batch_size=7, shuffle=True)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, data)
    return net, features, labels, trainer.callback_metrics


@pytest.mark.filterwarnings("ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*")
def test_the_callback_logs_what_measure_says():
    """In eval mode, on the training data; the module trains on as before."""
    net, features, labels, logged = fit(collapse.CollapseCallback())
    assert net.training
    net.eval()
    with torch.no_grad():
        expected = collapse.measure(net.body(features), labels, net.head)
    assert {name for name in logged if name.startswith("collapse/")} == {f"collapse/{name}" for name in expected}
    for name, value in expected.items():
        assert float(logged[f"collapse/{name}"]) == pytest.approx(value, rel=1e-5, nan_ok=True), name


@pytest.mark.filterwarnings("ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*")
def test_every_n_epochs_and_unknown_classifiers():
    assert "collapse/nc1" not in fit(collapse.CollapseCallback(every_n_epochs=3))[3]
    with pytest.raises(ConfigError, match=r"classifier='psi' is no linear layer of the model. It has body.0, head"):
        fit(collapse.CollapseCallback("psi"))
    with pytest.raises(ConfigError, match="every_n_epochs=0"):
        collapse.CollapseCallback(every_n_epochs=0)
