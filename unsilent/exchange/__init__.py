"""Files of other programs: reads cues from tables, MIDI, cut lists and projects, and writes projects of a video with its sounds."""
