// Draws spectrograms, maps and waveforms on canvases.

// from dark violet through red to light yellow, as in the figures of the command line
const STOPS = [[0, 0, 4], [40, 17, 89], [114, 31, 129], [183, 55, 121], [241, 96, 93], [254, 159, 109], [252, 253, 191]]
const COLOURS = Uint8ClampedArray.from({ length: 1024 }, (_, at) => {
  const [level, channel] = [at >> 2, at & 3]
  if (channel === 3) return 255
  const place = (level / 255) * (STOPS.length - 1)
  const below = Math.min(STOPS.length - 2, Math.floor(place))
  return STOPS[below][channel] + (STOPS[below + 1][channel] - STOPS[below][channel]) * (place - below)
})

// Draws columns of bytes from column `start` on, with the first row at the bottom.
export function columns(canvas, data, rows, start = 0) {
  const n = Math.floor(data.length / rows)
  if (!n) return
  const image = new ImageData(n, rows)
  for (let column = 0; column < n; column++) {
    for (let row = 0; row < rows; row++) {
      const from = data[column * rows + row] * 4
      image.data.set(COLOURS.subarray(from, from + 4), ((rows - 1 - row) * n + column) * 4)
    }
  }
  canvas.getContext("2d").putImageData(image, start, 0)
}

// Draws a map over a fraction of the time axis; 1 fills the canvas.
export function map(canvas, data, rows, share = 1) {
  const n = Math.floor(data.length / rows)
  canvas.width = Math.max(1, Math.round(n / share))
  canvas.height = rows
  columns(canvas, data, rows)
}

// Subtracts the mean of each row over all columns; 128 is no difference.
export function withoutMean(data, rows) {
  const n = data.length / rows
  const means = Array.from({ length: rows }, (_, row) => { let sum = 0; for (let at = row; at < data.length; at += rows) sum += data[at]; return sum / n })
  return Uint8Array.from(data, (value, at) => Math.max(0, Math.min(255, 128 + (value - means[at % rows]) / 2)))
}

export function wave(canvas, outline) {
  const [width, height] = [canvas.clientWidth * devicePixelRatio || 600, 72 * devicePixelRatio]
  Object.assign(canvas, { width, height })
  const [to, pairs] = [canvas.getContext("2d"), outline.length / 2]
  const loudest = Math.max(1, ...outline.map(Math.abs))
  to.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent")
  for (let x = 0; x < width; x++) {
    const [first, last] = [Math.floor((x * pairs) / width), Math.max(Math.floor((x * pairs) / width) + 1, Math.floor(((x + 1) * pairs) / width))]
    let [low, high] = [0, 0]
    for (let at = first; at < last; at++) {
      low = Math.min(low, outline[2 * at])
      high = Math.max(high, outline[2 * at + 1])
    }
    const scale = (height / 2 - 2) / loudest
    to.fillRect(x, height / 2 - high * scale, 1, Math.max(1, (high - low) * scale))
  }
}

export const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))
