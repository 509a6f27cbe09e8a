import torch

from training.optimizers.weight_average import WeightAverage


def test_without_decay_no_mean_is_kept() -> None:
    layer = torch.nn.Linear(2, 2)
    average = WeightAverage(layer.named_parameters(), 0.0)
    average.update(0)
    assert average.state_dict() == {}
    kept = layer.weight.detach().clone()
    with average.applied():
        assert torch.equal(layer.weight, kept)


def test_the_mean_follows_slowly_and_is_put_back() -> None:
    layer = torch.nn.Linear(2, 2)
    average = WeightAverage(layer.named_parameters(), 0.9)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1.0
    average.update(1000)
    with average.applied():
        torch.testing.assert_close(layer.weight, before + 0.1)
    torch.testing.assert_close(layer.weight.detach(), before + 1.0)
