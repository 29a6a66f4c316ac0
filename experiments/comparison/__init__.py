"""Several variants, one or more seeds each, compared: which runs, what they show, how it is reported."""
