// The page with the model inside. `vitrail.run`, `vitrail.prepare` and `vitrail.answer` are for other programs.

function start() {
  const here = new LocalModel(page.model), { input } = page.model;
  useModel({
    about: page.model,
    lead: "The model is in this file and runs on this device: no image leaves it, and no network is needed.",
    starting: "Starting the model …",
    answer: async bitmap => ({ ...await here.answer(readPixels(bitmap, input)), where: "on this device" }),
  });
  globalThis.vitrail = {
    about: page.model,
    read: async file => readPixels(await decodeFile(file), input),
    prepare: image => page.model.output === "classes" ? [fitImage(image, input)]
      : cutWindows(image, input).windows.map(window => window.image),
    run: (planes, size) => here.run(planes, size),
    answer: image => here.answer(image),
    show: showFile,
  };
  listExamples(page.model.examples);
}
