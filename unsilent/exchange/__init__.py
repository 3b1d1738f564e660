"""Files of other programs: cues from tables, MIDI, cut lists and projects; and projects of a video with its sounds, for them."""
