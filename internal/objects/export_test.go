package objects

var ErrDropped = errDropped
