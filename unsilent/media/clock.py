"""Corrects time stamps of files whose clock restarts, as in concatenated recordings, or jumps, as in broadcasts."""

from dataclasses import dataclass
from fractions import Fraction

import av

BACK_SECONDS = 0.5  # smaller steps back come from reordered or estimated time stamps
AHEAD_SECONDS = 10  # smallest forward jump of a clock, in formats that allow it; smaller gaps are interruptions
NEAR_SECONDS = 5  # largest difference from the expected time at which a stream joins the jump of another
JUMPING = {"mpegts", "mpegtsraw", "mpeg", "ogg"}  # formats whose clocks may jump ahead: FFmpeg's AVFMT_TS_DISCONT


@dataclass
class _Place:
    """State of a stream, in units of its time base: stored time stamps, corrected end, and the stretch between two jumps."""

    stretch: int
    shift: int
    last: int | None
    next: int
    end: int


class Clock:
    """Corrects the time stamps of packets. They must be in file order, and from all audio and video streams.

    A new stretch begins where the time of a stream steps back, or jumps ahead in a format that allows it. The offset of a stretch makes the
    first stream that reaches it continuous. All streams use this offset, so they stay synchronous.

    Args:
        container: source of the packets.
    """

    def __init__(self, container: av.container.InputContainer) -> None:
        self._jumps = container.format.name in JUMPING
        self._offsets = [Fraction(0)]  # seconds, of each stretch
        self._places: dict[int, _Place] = {}
        self._current = 0

    def correct(self, packet: av.Packet) -> None:
        """Shift the time stamps of a packet in place."""
        time = packet.pts if packet.dts is None else packet.dts
        if time is None:
            return
        if packet.stream.type not in ("audio", "video"):
            shift = round(self._offsets[self._current] / packet.time_base)
        else:
            hidden = self._places.get(packet.stream_index) if packet.is_discard else None
            place = hidden or self._place(packet, time)
            shift, self._current = place.shift, place.stretch
            if not packet.is_discard:  # time stamps step back after packets that an edit list hides
                if packet.dts is not None:  # presentation times need not increase
                    place.last, place.next = time, time + (packet.duration or 0)
                place.end = max(place.end, (time if packet.pts is None else packet.pts) + shift + (packet.duration or 0))
        if shift:
            packet.dts = None if packet.dts is None else packet.dts + shift
            packet.pts = None if packet.pts is None else packet.pts + shift

    def _place(self, packet: av.Packet, time: int) -> _Place:
        place, base = self._places.get(packet.stream_index), packet.time_base
        if place is None:
            shift = round(self._offsets[-1] / base)
            place = self._places[packet.stream_index] = _Place(len(self._offsets) - 1, shift, None, time, time + shift)
        if place.last is None or packet.dts is None:
            return place
        back, ahead = place.last - time, time - place.next
        if back * base > BACK_SECONDS or (self._jumps and ahead * base > AHEAD_SECONDS):
            place.stretch = self._stretch_of(place, time, packet)
            place.shift = round(self._offsets[place.stretch] / base)
        return place

    def _stretch_of(self, place: _Place, time: int, packet: av.Packet) -> int:
        """The stretch of another stream that this one joins, or else a new one."""
        expected = place.end * packet.time_base
        for stretch in range(place.stretch + 1, len(self._offsets)):
            if abs(time * packet.time_base + self._offsets[stretch] - expected) < NEAR_SECONDS:
                return stretch
        self._offsets.append(expected - (time if packet.pts is None else packet.pts) * packet.time_base)
        return len(self._offsets) - 1
