"""From folders of sounds to a report: files, labels, classifier, scores, page."""
