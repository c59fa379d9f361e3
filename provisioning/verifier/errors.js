// How a step ends when it does not pass. Kinds are those of the box (appliance/seal, appliance/trust): stable, compared by tests.

/** Evidence does not hold. */
export class Unverified extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** Neither valid nor invalid: trust material is missing, or this browser cannot compute it. */
export class Undecided extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** The step does not apply to this container. */
export class Skip extends Error {}

/** Runs `act`; what it refuses as evidence becomes another kind, as the box names it at that place. */
export async function renamed(kind, act) {
  try {
    return await act();
  } catch (error) {
    if (error instanceof Unverified) throw new Unverified(kind, error.message);
    throw error;
  }
}
