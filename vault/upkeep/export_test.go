package upkeep

// SweepOfAnyAge is Sweep without its least age, for tests that cannot wait for an hour.
var SweepOfAnyAge = sweep
