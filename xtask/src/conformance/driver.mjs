// Runs the tests of a suite against a cache and writes one JSON object: what each test is and what became of it.
// Arguments: the suite's directory, the cache's address, tests at once, the file to write, ids of tests (none: all).
import { existsSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [directory, base, atOnce, file, ...ids] = process.argv.slice(2)
const load = (...path) => import(pathToFileURL(join(directory, ...path)))
const isNewer = existsSync(join(directory, 'test-engine'))

const suites = [...(await load('tests', 'index.mjs')).default]
if (existsSync(join(directory, 'tests', 'surrogate-control.mjs'))) {
  suites.push((await load('tests', 'surrogate-control.mjs')).default)
}
const isChosen = test => ids.length === 0 || ids.includes(test.id)
for (const suite of suites) {
  suite.tests.filter(isChosen).forEach(test => { test.dump = ids.length > 0 })
}
const chosen = suites.map(suite => ({ ...suite, tests: suite.tests.filter(isChosen) }))

// The older edition is given its fetch; the newer one uses node's own.
const runner = await load(isNewer ? 'test-engine' : '.', 'client', 'runner.mjs')
const fetch = isNewer ? [] : [createRequire(join(directory, 'x'))('node-fetch')]
await runner.runTests(chosen, ...fetch, false, base, Number(atOnce))

const tests = suites.flatMap(suite => suite.tests.filter(test => test.browser_only !== true).map(test => ({
  id: test.id, suite: suite.id, name: test.name, kind: test.kind ?? 'required', depends_on: test.depends_on ?? []
})))
writeFileSync(file, JSON.stringify({ tests, results: runner.getResults() }))
