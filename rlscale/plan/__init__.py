"""What a run needs of devices and hosts, and about how long it takes, by formula: nothing is loaded or started."""
