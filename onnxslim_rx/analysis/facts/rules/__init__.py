"""Rules of inference, one file for each family of operators."""
