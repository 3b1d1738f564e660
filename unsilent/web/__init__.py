"""The page: plain HTML, CSS and JavaScript, sent by `unsilent.server` as it is. It has no logic of sound."""
