"""Known models have the published number of parameters, so that no shape is misremembered."""

import pytest

from jaxcomp.config import ConfigError
from jaxcomp.models.config import from_hf, to_hf
from jaxcomp.models.model import count_params
from jaxcomp.models.registry import MODELS, published


def _images(D):
    """Parameters of Gemma 3 that read images: SigLIP, and a projection with a norm."""
    return 416_866_032 + 1152 * D + 1152


# As the hub counts the tensors of the published files; of the Vision towers, the Llama 3.1 models
# whose layers they hold unchanged (arXiv 2407.21783, section 7).
PARAMETERS = {
    "llama3-8b-instruct": 8_030_261_248,
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "llama3.2-11b": 8_030_261_248,
    "llama3.2-90b": 70_553_706_496,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gemma3-4b": 4_300_079_472 - _images(2560),
    "gemma3-12b": 12_187_325_040 - _images(3840),
    "gemma3-27b": 27_432_406_640 - _images(5376),
    "olmo2-1b": 1_484_916_736,
    "olmo2-7b": 7_298_617_344,
    "olmo2-13b": 13_716_198_400,
    "olmo2-32b": 32_234_279_936,
    "smollm2-135m": 134_515_008,
}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_the_published_number(name):
    assert count_params(MODELS[name].shape) == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
def test_a_shape_survives_config_json(name):
    assert from_hf(to_hf(MODELS[name].shape)) == MODELS[name].shape


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean qwen3-0\.6b\?"):
        published("qwen3-0.6")
