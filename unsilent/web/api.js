// Requests to the server. Every failure throws an Error with the server's message.

const failed = async (answer) => {
  const sentence = await answer.json().then((body) => body.error, () => `the server answered ${answer.status}.`)
  return new Error(sentence)
}

export async function call(path, options = {}) {
  let answer
  try {
    answer = await fetch(path, options)
  } catch {
    throw new Error("the server does not answer; is it still running?")
  }
  if (!answer.ok) throw await failed(answer)
  return answer.status === 204 ? null : answer.json()
}

export const post = (path, body) =>
  call(path, { method: "POST", headers: { "content-type": "application/json" }, body: body === undefined ? undefined : JSON.stringify(body) })

export async function bytes(path) {
  const answer = await fetch(path)
  if (!answer.ok) throw await failed(answer)
  return new Uint8Array(await answer.arrayBuffer())
}

export function upload(file, onShare) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest()  // fetch reports no upload progress
    request.open("PUT", `api/inputs?name=${encodeURIComponent(file.name)}`)
    request.upload.onprogress = (event) => onShare(event.loaded / (event.total || 1))
    request.onerror = () => reject(new Error("the upload was interrupted; the file may be too large, or the server has stopped."))
    request.onload = () => {
      let body = {}
      try { body = JSON.parse(request.responseText) } catch { /* not JSON, so without a message */ }
      request.status === 201 ? resolve(body) : reject(new Error(body.error || `the server answered ${request.status}.`))
    }
    request.send(file)
  })
}

// Calls a function of `on` for each event of a job until it ends; the browser reconnects by itself. Returns a function that stops it.
export function follow(id, on) {
  const source = new EventSource(`api/jobs/${id}/events`)
  for (const name of ["progress", "mel", "sound"]) source.addEventListener(name, (event) => on[name](JSON.parse(event.data)))
  source.addEventListener("end", (event) => { source.close(); on.end(JSON.parse(event.data)) })
  return () => source.close()
}
