import pytest
import torch

from model_store.architecture import VARIANTS, SamConfig, build_sam, sam_config


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_config_survives_json(variant: str) -> None:
    config = sam_config(variant)
    assert SamConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"input_size": 250}, "input_size 250"),
        ({"embed_dim": 190}, "embed_dim 190"),
        ({"num_mask_tokens": 1}, "num_mask_tokens 1"),
        ({"global_attn_indexes": (9,)}, "global_attn_indexes"),
        ({"pixel_mean": (1.0, 2.0)}, "pixel_mean"),
        ({"prompt_dim": 100}, "prompt_dim 100"),
        ({"colour": 1}, "colour"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        sam_config("vit_t", **changes)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="vit_b"):
        sam_config("vit_x")


def test_vit_b_has_the_published_parameter_count() -> None:
    with torch.device("meta"):
        model = build_sam(sam_config("vit_b"))
    # 93.7 M parameters, of which 89.7 M in the image encoder (Kirillov et al. 2023).
    assert sum(p.numel() for p in model.parameters()) == 93_735_472
    assert round(sum(p.numel() for p in model.image_encoder.parameters()) / 1e6, 1) == 89.7
