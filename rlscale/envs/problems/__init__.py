"""Problems that a package makes and judges, by name, level and seed; the same seed gives the same problem."""
