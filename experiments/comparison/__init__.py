"""Compares variants, with one or more seeds each: chooses the runs, computes the results and reports them."""
