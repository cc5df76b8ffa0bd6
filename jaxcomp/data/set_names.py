"""Names of the held-out sets. Here, so that who only names them need not load what makes them."""

WORLD_SETS = ("ordinary", "counterfactual")  # of the controlled world
TEXT_SET = "test"  # of a real text
