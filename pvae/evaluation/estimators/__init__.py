"""The estimators of an evaluation, one file an idea."""
