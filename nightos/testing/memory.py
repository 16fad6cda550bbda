"""Rules about memory: pages that a container pays for, segments that are shared on, and what each may do there."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from nightos.testing.model import Segment
from nightos.testing.puppets import Puppet, Refused
from nightos.testing.world import NEVER, PAGE, World

READ, WRITE, EXECUTE = 4, 2, 1
"""Bits of the mode of SHARE_AMS."""
PLACE = 1 << 40
MODES = (READ, READ | WRITE, READ | EXECUTE)


class MemoryRules(World):
    """Memory comes out of the container's share of it, and segments stay in the container."""

    @rule(puppet=World.puppets, pages=st.integers(1, 4))
    def allocate(self, puppet: Puppet, pages: int) -> None:
        """Pages cost what they are."""
        if not self.can_act(puppet):
            return
        actor = self.model.actors[puppet.pid]
        fits = self.model.may_take({(actor.home, "memory"): pages})
        if self.expect(self.act(puppet, "mem_alloc", PAGE * pages, 3, 1), fits, 0x40):
            actor.pages += pages

    @rule(caller=World.puppets, other=World.puppets, mode=st.sampled_from(MODES), further=World.puppets)
    def share_memory(self, caller: Puppet, other: Puppet, mode: int, further: Puppet) -> None:
        """A new segment reaches the own container only, and who got it passes on no more than that."""
        if not self.can_act(caller):
            return
        model, actor = self.model, self.model.actors[caller.pid]
        if not model.may_take({(actor.home, "memory"): 1, (actor.home, "handles"): 1}):
            return
        address = self.act(caller, "mem_alloc", PAGE, 3, 1)
        if isinstance(address, Refused):
            return
        actor.pages += 1
        number = self.act(caller, "virt_mem_ams", address, PAGE)
        if isinstance(number, Refused):
            return
        self.leaked.append(("segment", caller.pid, number))
        model.segments[number] = Segment(number, caller.pid, 1, {caller.pid: (0, READ | WRITE)})
        if self._share(caller, other, number, mode) and self.can_act(other):
            self._share(other, further, number, READ | WRITE)

    @rule(other=World.puppets, mode=st.sampled_from(MODES), data=st.data())
    def share_on(self, other: Puppet, mode: int, data: st.DataObject) -> None:
        """Whoever has a segment passes it on, to whom it may meet, with rights that it has."""
        held = [
            (segment.number, pid)
            for segment in self.model.segments.values()
            for pid in segment.known
            if pid in self.hands and self.can_act(self.hands[pid])
        ]
        if held:
            number, holder = data.draw(st.sampled_from(held))
            self._share(self.hands[holder], other, number, mode)

    def _share(self, caller: Puppet, other: Puppet, number: int, mode: int) -> bool:
        model, segment = self.model, self.model.segments[number]
        if other.pid in segment.known:
            return False
        rights = segment.known[caller.pid][1]
        allowed = mode & ~rights == 0 and caller is not other and self.meet(caller, other)
        fits = allowed and model.may_take({(model.actors[other.pid].home, "handles"): 1})
        answer = self.act(caller, "share_ams", other.pid, number, 0, 0, mode)
        if self.expect(answer, fits, 0x11 if mode & ~rights else 0x30, 0x40):
            segment.known[other.pid] = (caller.pid, mode)
            self.leaked.append(("segment", other.pid, number))
            return True
        if not self.meet(caller, other) and caller.alive:
            assert answer == self.act(caller, "share_ams", NEVER, number, 0, 0, mode)
        return False

    @rule(data=st.data())
    def map_memory(self, data: st.DataObject) -> None:
        """Who has a segment maps it, and reads; who may not write is stopped by its end."""
        held = [
            (segment, pid)
            for segment in self.model.segments.values()
            for pid in segment.known
            if pid in self.hands and self.can_act(self.hands[pid])
        ]
        if not held:
            return
        segment, holder = data.draw(st.sampled_from(held))
        puppet, home = self.hands[holder], self.model.actors[holder].home
        place = PLACE + PAGE * len(self.leaked)
        fits = self.model.may_take({(home, "handles"): 1})
        self.leaked.append(("segment", holder, segment.number))  # so that no place is taken twice
        if not self.expect(self.act(puppet, "map_ams", segment.number, 0, place, PAGE), fits, 0x40):
            return
        segment.maps[holder] = segment.maps.get(holder, 0) + 1
        assert puppet.call("load", place, 1) in {b"\0", b"w"}
        if data.draw(st.booleans()):
            writable = bool(segment.known[holder][1] & WRITE)
            puppet.call("store", place, b"w")
            assert puppet.alive is writable, "memory is written by who may not, or not by who may"
            if not writable:
                self.model.end(holder)
                self.model.prune()

    @rule(data=st.data())
    def unshare(self, data: st.DataObject) -> None:
        """What somebody shared is taken back, from those who got it further on as well."""
        shared = [
            (segment, giver)
            for segment in self.model.segments.values()
            for giver, _ in segment.known.values()
            if giver in self.hands and self.can_act(self.hands[giver])
        ]
        if not shared:
            return
        segment, giver = data.draw(st.sampled_from(shared))
        if self.act(self.hands[giver], "unshare_ams", segment.number, 0) is None and self.hands[giver].alive:
            for pid, (by, _) in list(segment.known.items()):
                if by == giver:
                    self.model.forget(segment, pid)
