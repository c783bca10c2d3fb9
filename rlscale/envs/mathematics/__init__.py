"""Reading answers of mathematics and telling whether two are equal; math-verify parses the formulas."""
