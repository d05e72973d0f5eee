"""The paper's own values for LLaVA-1.5-7B, read off its published figures by eye; drawn beside ours as hollow marks.

Source: the figures folder of the authors' repository; error of reading about 0.005, of CHAIR_i about 0.05 points.
"""

# Attention mass of the top 20 heads: after the image ("text" there), on the image; fractions.
ATTENTION_BIAS = {
    "hal_heads": {"after_image_mass": 0.525, "image_mass": 0.11},
    "non_hal_heads": {"after_image_mass": 0.288, "image_mass": 0.247},
}

# Cosine similarity to the base model of one head each, on one image; of the means only that they lie in this range.
INHERITANCE = {"hal_heads": {"L16H29": 0.94}, "non_hal_heads": {"L31H16": 0.71}, "range_of_means": [0.65, 0.80]}

# Jensen-Shannon divergence, nats, of the top 3 heads by step of instruction tuning.
JS_DIVERGENCE = {
    "step": [500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500, 5000],
    "hal_heads": [0.058, 0.066, 0.069, 0.072, 0.072, 0.075, 0.076, 0.077, 0.078, 0.078],
    "non_hal_heads": [0.079, 0.099, 0.104, 0.111, 0.115, 0.116, 0.122, 0.123, 0.126, 0.126],
}

# CHAIR_i, fractions, by the factor on attention of the top 20 heads.
REWEIGHT = {
    "after_image": {
        "alpha": [1.0, 0.8, 0.6, 0.4, 0.2, 0.0],
        "hal_heads": [0.132, 0.128, 0.123, 0.109, 0.099, 0.084],
        "random_heads": [0.132, 0.132, 0.133, 0.128, 0.133, 0.132],
    },
    "image": {
        "alpha": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5],
        "hal_heads": [0.132, 0.136, 0.137, 0.139, 0.136, 0.139],
        "random_heads": [0.132, 0.139, 0.136, 0.135, 0.131, 0.134],
    },
}
