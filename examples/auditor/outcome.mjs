// The classes in which every operation ends (format.md, section 9), and the exit code of each.
export const EXIT = Object.freeze({
  'ok': 0,
  'invalid-id': 10,
  'not-found': 11,
  'wrong-patient': 12,
  'denied': 13,
  'invalid-grant': 14,
  'unsupported': 15,
  'damaged': 16,
  'retired': 17,
  'not-enrolled': 18,
  'erased': 19,
  'unavailable': 20,
});

// Failure ends an operation in a class other than ok. Its message holds no key, token or sealed text.
export class Failure extends Error {
  constructor(outcome, reason) {
    super(reason);
    if (!(EXIT[outcome] > 0)) throw new TypeError(`internal error: ${outcome} is not the class of a failure`);
    this.outcome = outcome;
  }
}

export const damaged = (reason) => new Failure('damaged', reason);
export const unavailable = (reason) => new Failure('unavailable', reason);
