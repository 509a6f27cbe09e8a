// What the OHIF plugin of Orthanc shows (https://docs.ohif.org/configuration). Where the pictures come
// from (`dataSources`, `routerBasename`) is added by the plugin.
//
// Segmentations of X-rays are loaded from the study's list of series: double click on "Lung
// segmentation". OHIF needs a plane in them, so leave --dicom-plane at `detector`.
window.config = {
  extensions: [],
  modes: [],
  showStudyList: true,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: true,
  strictZSpacingForVolumeViewport: false,
  maxNumRequests: { interaction: 100, thumbnail: 10, prefetch: 10 },
  investigationalUseDialog: { option: 'always' },
};
