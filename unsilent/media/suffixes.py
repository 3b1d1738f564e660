"""File name suffixes of media that FFmpeg reads, in lower case, and markers of our own outputs."""

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".vob", ".mod",
    ".tod", ".mxf", ".dv", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".ogm", ".rm", ".rmvb", ".y4m", ".nut", ".gif", ".apng",
    ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".h266", ".266", ".m1v", ".ivf", ".obu", ".mjpeg", ".mjpg",
)  # fmt: skip
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma")
PROJECT_SUFFIXES = (".otio", ".otioz", ".rpp", ".mid", ".edl")  # project files of other programs, written for a video and its sounds
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
OWN_COMMENT = "sound by unsilent"  # beginning of the comment in every written video, sound and figure
CODES_SUFFIX, CODES_MAGIC = ".uns", b"UNSILENT"  # suffix and first bytes of files of codes
OWN_FORMAT = "unsilent result"  # field `format` of every sidecar
