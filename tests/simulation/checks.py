"""The six invariants, judged from outside: what information systems saw, what is on the platters, what the tokens signed.

I1  whatever was acknowledged is durable and verifiable
I2  whatever was delivered was sealed by its sender and is what was asked, once
I3  the log only grows (kept by `disk.Platter`, sync by sync)
I4  no seal breaks the eight-hour rule
I5  everybody who has a right is served within 60 s of the last fault's end
I6  nobody without the right is served
"""

from __future__ import annotations

from appliance.errors import XacbeError
from appliance.seal.container import Contents, write_container
from appliance.seal.hash_chain import SIGNATURES, STAMP_CHAIN, Batch
from appliance.seal.verify import verify_container
from appliance.trust.global_configuration import SharedParameters, parse_shared_parameters
from provisioning import publication
from provisioning.centre import Parameters
from tests.seal.workshop import INSTANCE, Known
from tests.simulation import oracle
from tests.simulation.logs import Logged, ReadLog, read_log
from tests.simulation.scenario import CONFIGURATION, KILL, LEAP, POWER, Ask
from tests.simulation.systems import Delivery, answer_to, name_of, question_of
from tests.simulation.town import Town, der
from tests.simulation.world import World

KNOWN_S = 2.0
"""From the supervisor's word that a right is gone to the last delivery under it: what was under way may end."""
FETCHED_S = 20.0
"""The same for a member that CEIQROO leaves out of its configuration: boxes here fetch it every ten seconds."""
VERIFIED_MAX = 4
"""Containers of one run that are verified whole: 5 ms each."""


def judge(world: World) -> list[str]:
    """Everything that does not hold; each line begins with the invariant."""
    for box in world.boxes.values():
        box.end()
    logs = {
        code: world.loop.run_until_complete(read_log(box, world.town, world.root / f"read-{code}")) for code, box in world.boxes.items()
    }
    found = [f"bug: {bug}" for bug in world.bugs]
    found += [f"I3: {code}: {each}" for code, box in world.boxes.items() for each in box.platter.shrunk]
    found += progress(world)
    found += served(world)
    for code, log in logs.items():
        found += [f"I1: {code}: {each}" for each in log.unreadable]
        if log.findings.bad is not None:
            found.append(f"I1: {code}: the log does not verify: {log.findings.bad}")
        found += eight_hours(code, log) + granted(world, code, log)
    found += acknowledged(world, logs)
    found += delivered(world, logs)
    found += verified(world, logs)
    return found


def asked(world: World) -> dict[str, Ask]:
    """Every question that was ever asked, by its message id."""
    return {name_of(one.ask.number).decode(): one.ask for system in world.systems.values() for one in system.outcomes} | {
        name_of(ask.number).decode(): ask for ask in world.scenario.asks
    }


def acknowledged(world: World, logs: dict[str, ReadLog]) -> list[str]:
    """I1: what left a box, or was given to an information system, was durable before."""
    found: list[str] = []
    asks = asked(world)

    def needs(code: str, query_id: str, side: str, direction: str, why: str) -> None:
        if logs[code].find(query_id, side, direction) is None:
            found.append(f"I1: {code}: {query_id}: the {side}'s {direction} is not in the log, but {why}")

    for system in world.systems.values():
        for one in system.outcomes:
            if one.is_answer:
                query_id = name_of(one.ask.number).decode()
                needs(one.ask.asker, query_id, "client", "response", "the answer was delivered")
                needs(one.ask.provider, query_id, "provider", "response", "the answer was sent")
        for delivery in system.deliveries:
            if (ask := asks.get(delivery.query_id)) is not None:
                needs(ask.asker, delivery.query_id, "client", "request", "it was sent")
            needs(delivery.provider, delivery.query_id, "provider", "request", "it was delivered")
    return found


def delivered(world: World, logs: dict[str, ReadLog]) -> list[str]:
    """I2: each information system was given what the other one said, once, under a seal of the other one's box."""
    found: list[str] = []
    asks = asked(world)
    seen: set[str] = set()
    for system in world.systems.values():
        for delivery in system.deliveries:
            ask = asks.get(delivery.query_id)
            if ask is None or delivery.body != question_of(ask):
                found.append(f"I2: {delivery.provider} was given {delivery.query_id!r}, which nobody asked so")
                continue
            if delivery.query_id in seen:
                found.append(f"I2: {delivery.query_id} was delivered twice")
            seen.add(delivery.query_id)
            found += _sealed(world, logs[ask.provider].find(delivery.query_id, "provider", "request"), ask.asker)
        for one in system.outcomes:
            if one.is_answer:
                name = name_of(one.ask.number)
                if one.body != answer_to(name, question_of(one.ask)):
                    found.append(f"I2: {one.ask.asker} was given another answer to {name.decode()}: {one.body[:40]!r}")
                    continue
                found += _sealed(world, logs[one.ask.asker].find(name.decode(), "client", "response"), one.ask.provider)
    return found


def _sealed(world: World, logged: Logged | None, sender: str) -> list[str]:
    if logged is None:
        return []  # I1 says so
    box = world.boxes[sender]
    why = oracle.why_not_sealed(logged, box.token.signed.get(box.institution.seal_label, set()))
    return [f"I2: {logged.query_id}, {logged.direction}: {why}"] if why else []


def eight_hours(code: str, log: ReadLog) -> list[str]:
    """I4: every stamp fits its seal."""
    found = []
    for logged in log.messages:
        for stamp in log.stamps.get(logged.sequence, ()):
            gap = oracle.gap(logged, stamp.token)
            if gap > oracle.EIGHT_HOURS:
                found.append(f"I4: {code}: {logged.query_id}, {logged.direction}: OCSP response and time stamp are {gap} apart")
    return found


def granted(world: World, code: str, log: ReadLog) -> list[str]:
    """I4: what an information system was given without a stamp was given within a grace that CEIQROO signed, and the log says so."""
    given = {(one.query_id, "request") for one in world.systems[code].deliveries}
    given |= {(name_of(one.ask.number).decode(), "response") for one in world.systems[code].outcomes if one.is_answer}
    found = []
    for one in log.messages:
        if one.received and (one.query_id, one.direction) in given and one.sequence not in log.stamps:
            if not world.scenario.grace_s:
                found.append(f"I4: {code}: {one.query_id}, {one.direction} was delivered without a stamp, and there is no grace")
            elif one.sequence not in log.provisional:
                found.append(f"I4: {code}: {one.query_id}, {one.direction} was delivered without a stamp, and the log does not say so")
    return found


def progress(world: World) -> list[str]:
    """I5."""
    wanted = sorted((asker, provider) for asker, provider, service in world.scenario.rights if service == "open")
    return [
        f"I5: {asker} is not served by {provider} though all is well"
        for asker, provider in wanted
        if (asker, provider) not in world.progress
    ]


def served(world: World) -> list[str]:
    """I6: by the scenario's table alone. The client that a system is told is the one that asked."""
    found = []
    clients = {world.boxes[code].institution.client.encoded(): code for code in world.boxes}
    asks = asked(world)
    for system in world.systems.values():
        for delivery in system.deliveries:
            code = clients.get(delivery.client, delivery.client)
            ask = asks.get(delivery.query_id)
            if ask is not None and (ask.asker, ask.provider, ask.service) != (code, delivery.provider, delivery.service):
                found.append(f"I6: {delivery.query_id} came to {delivery.provider}/{delivery.service} in the name of {code}")
            if not _may(world, (code, delivery.provider, delivery.service), delivery):
                found.append(f"I6: {code} was served {delivery.service} of {delivery.provider} without the right ({delivery.query_id})")
    return found


def _may(world: World, key: tuple[str, str, str], delivery: Delivery) -> bool:
    if key not in world.scenario.rights:
        return False
    gone_s: float | None = None
    for change in world.changes:
        if change.key != key:
            continue
        if change.served and change.asked_s <= delivery.at_s:
            gone_s = None
        elif not change.served and change.done_s is not None and change.done_s <= delivery.at_s:
            gone_s = change.done_s
    if gone_s is not None and delivery.at_s > gone_s + KNOWN_S:
        return False
    if any(fault.kind in (CONFIGURATION, POWER, KILL, LEAP) for fault in world.scenario.faults):
        return True  # whether everybody could hear of a suspension is not known from outside
    return not any(code in key[:2] and began + FETCHED_S < delivery.at_s < ended for began, ended, code in world.suspensions)


def verified(world: World, logs: dict[str, ReadLog]) -> list[str]:
    """I1 again: what was acknowledged makes a container that anybody can verify, once it is stamped."""
    stamped = [(code, log, one) for code, log in sorted(logs.items()) for one in log.messages if one.sequence in log.stamps]
    known = Known(INSTANCE, {INSTANCE: _shared(world.town)})
    found = []
    for code, log, one in world.chance.sample(stamped, min(VERIFIED_MAX, len(stamped))):
        try:
            report = verify_container(_container(log, one, world), known, None)
        except (XacbeError, KeyError, ValueError) as error:  # KeyError: what the stamp covers is not in the log
            found.append(f"I1: {code}: {one.query_id}, {one.direction} makes no container: {error!r}")
            continue
        if report.verdict != "valid":
            found.append(f"I1: {code}: {one.query_id}, {one.direction} does not verify: {report.reason}")
    return found


def _container(log: ReadLog, one: Logged, world: World) -> bytes:
    stamp = log.stamps[one.sequence][0]
    chain = None
    if stamp.chain_result is not None:
        digests = [log.signatures[signature] for signature in stamp.signatures]
        batch = Batch([[(SIGNATURES, digest)] for digest in digests], STAMP_CHAIN)
        chain = batch.chain(digests.index(oracle.digest_of(one.signature)))
    contents = Contents(
        message=one.message,
        signature=one.signature,
        chain_result=one.chain_result,
        chain=one.chain,
        stamp_token=stamp.token,
        stamp_chain_result=stamp.chain_result,
        stamp_chain=chain,
        attachments=[one.body] if one.body else [],
    )
    return write_container(contents, world.boxes[next(iter(world.boxes))].clock.true_us())


_parameters: list[SharedParameters] = []


def _shared(town: Town) -> SharedParameters:
    if not _parameters:
        source = town.centre(Parameters()).configuration_address, der(town.configuration)
        xml = publication.shared_parameters(town.snapshot(frozenset()), Parameters(), source, 6)
        _parameters.append(parse_shared_parameters(xml, 6))
    return _parameters[0]
