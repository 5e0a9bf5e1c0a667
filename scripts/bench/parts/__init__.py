"""One module for each group of ratios that is measured."""
